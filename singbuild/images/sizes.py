"""What of an image takes how much: its packages, as their databases say, and its directories."""

from __future__ import annotations

from collections.abc import Iterator

from singbuild.console.sizes import binary
from singbuild.ext3.node import shown
from singbuild.file_tree import FileTree
from singbuild.packages import package
from singbuild.packages.databases import software
from singbuild.packages.tree import ImageTree

DEPTH = 3  # of directories that are listed
MOST_ROWS = 20  # of each, for people


def directories(tree: FileTree) -> dict[str, int]:
    """Return the bytes of data below each directory, down to DEPTH, the largest first.

    A file with several names counts once, under the first; holes do not count.
    """
    sizes: dict[bytes, int] = {}
    numbers = set()
    for entry in tree.walk():
        inode = entry.inode
        if inode.kind == "file" and inode.number not in numbers:
            numbers.add(inode.number)
            size = min(inode.size, inode.disk_bytes)
            parts = entry.path.split(b"/")[:-1]
            for depth in range(min(len(parts), DEPTH) + 1):
                path = b"/".join(parts[:depth])
                sizes[path] = sizes.get(path, 0) + size
    return {
        shown(path): size
        for path, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))
    }


def described(tree: FileTree) -> str:
    """Return the largest packages and directories as lines for people."""
    return "\n".join(_lines(tree)) + "\n"


def _lines(tree: FileTree) -> Iterator[str]:
    packages = sorted(software(ImageTree(tree)).packages, key=lambda each: (-each.size, each))
    if sized := [each for each in packages if each.size]:
        yield f"Packages: {binary(sum(each.size for each in sized))} in {len(sized)}"
        for each in sized[:MOST_ROWS]:
            yield f"  {binary(each.size):>10}  {package.line(each.name)} ({each.kind})"
    sizes = directories(tree)
    yield f"Directories: {binary(sizes.get('/', 0))}"
    for path, size in [*sizes.items()][1 : MOST_ROWS + 1]:
        yield f"  {binary(size):>10}  {path}"
