"""An image's files as pages of a tree: what would be too much for a page gets its own."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from singbuild.hub import drawings
from singbuild.hub.contents import File

LARGEST = 220_000
"""Bytes of a page, about."""
_ENTRY = 130  # bytes of an entry's markup
_DEEPEST = 60  # directories in each other: browsers end at 512 elements, Python at 1000 calls
_DRAWN = 60  # directories of a treemap


@dataclass(slots=True)
class Node:
    """A file of the tree. page: the name of the page that a directory has of its own, else "".

    where, anchor: the page that shows a directory, and its name there; weight: bytes of markup.
    """

    name: str
    path: str
    kind: str = "d"
    mode: str = ""
    size: int = 0
    target: str = ""
    count: int = 0
    weight: int = 0
    page: str = ""
    where: str = ""
    anchor: str = ""
    by_name: dict[str, Node] = field(default_factory=dict)

    @property
    def children(self) -> list[Node] | None:
        """What a directory holds, directories first, sorted; None for anything else."""
        if self.kind != "d":
            return None
        return sorted(self.by_name.values(), key=lambda each: (each.kind != "d", each.name))

    @property
    def directories(self) -> list[Node]:
        """The directories that it holds, in no order."""
        return [each for each in self.by_name.values() if each.kind == "d"]

    @property
    def link(self) -> str:
        """Where a directory is shown, from the directory of the pages."""
        return self.page or f"{self.where}#{self.anchor}"

    def tenths(self, above: Node) -> int:
        """Return how much of the directory above it takes, in tenths."""
        return min(10, 10 * self.size // (above.size or 1))


def tree(files: Sequence[File]) -> Node:
    """Make a tree of a list of files, each directory with the bytes and entries below it.

    What lies deeper than _DEEPEST has the rest of its path for a name.
    """
    root = Node("", "/")
    directories = {"": root}

    def directory(path: str) -> Node:
        node = directories.get(path)
        if node is None:
            above, _, name = path.rpartition("/")
            node = directory(above).by_name.setdefault(name, Node(name, path))
            directories[path] = node
        return node

    for path, kind, mode, size, content in files:
        is_deep = path.count("/") > _DEEPEST
        if kind == "d":
            if not is_deep:
                directory(path.rstrip("/")).mode = f"{mode:04o}"
            continue
        above, _, name = path.rpartition("/")
        if is_deep:
            *parts, name = path.split("/", _DEEPEST)
            above = "/".join(parts)
        target = content if kind == "l" else ""
        node = Node(name, path, kind, f"{mode:04o}", size, target, 1, _ENTRY + len(name + target))
        directory(above).by_name.setdefault(name, node)
    _total(root)
    return root


def _total(node: Node) -> None:
    """Sum up what directories hold."""
    for each in node.by_name.values():
        if each.kind == "d":
            _total(each)
        node.size += each.size
        node.count += each.count
        node.weight += each.weight
    if node.name:
        node.count += 1
        node.weight += _ENTRY + len(node.name)


@dataclass(frozen=True)
class Page:
    """A page of a tree: of what ``top`` holds, or of a part of it. name: of its file.

    others: names of the pages of all parts, in order; () where it is whole.
    """

    name: str
    top: Node
    children: Sequence[Node]
    others: Sequence[str] = ()


def pages(root: Node) -> Iterator[Page]:
    """Yield all pages; the directories know then where they are shown."""
    waiting = [("index.html", root)]
    number = 0
    root.page = "index.html"
    while waiting:
        name, top = waiting.pop(0)
        own = []
        for node in _heads(top):
            number += 1
            node.page = f"{number}.html"
            own.append((node.page, node))
        parts = list(_parts(top))
        stem = name.removesuffix(".html")
        names = [name, *(f"{stem}-{n}.html" for n in range(2, len(parts) + 1))]
        for part_name, part in zip(names, parts, strict=True):
            _number(part_name, part)
            yield Page(part_name, top, part, names if len(parts) > 1 else ())
        waiting += own


def _parts(top: Node) -> Iterator[list[Node]]:
    """Divide what a directory holds into as much as a page takes."""
    part: list[Node] = []
    weight = 0
    for node in top.children or ():
        own = _ENTRY + len(node.name) + len(node.target) + (0 if node.page else node.weight)
        if part and weight + own > LARGEST:
            yield part
            part, weight = [], 0
        part.append(node)
        weight += own
    yield part


def _number(page: str, nodes: Sequence[Node]) -> None:
    """Give the directories of a page their names there."""
    waiting, number = [each for each in nodes if each.kind == "d"], 0
    while waiting:
        node = waiting.pop()
        if not node.page:
            number += 1
            node.where, node.anchor = page, f"d{number}"
            waiting += node.directories


def _heads(top: Node) -> list[Node]:
    """Choose the directories below ``top`` that get pages of their own, the largest first."""
    room = LARGEST - sum(_ENTRY + len(each.name) for each in top.by_name.values())
    heads = []
    for each in sorted(top.directories, key=lambda each: each.weight):
        if each.weight > room:
            heads.append(each)
        else:
            room -= each.weight
    return heads


def areas(root: Node) -> list[drawings.Area]:
    """Choose directories for a treemap: the largest is divided until there are enough.

    After ``pages``, which gives directories their links.
    """
    hues = _hues(root)

    def area(node: Node, size: int) -> drawings.Area:
        above = (hues[path] for path in _ancestry(node.path) if path in hues)
        hue = next(above, drawings.HUES - 1)
        return drawings.Area(node.path, size, f"files/{node.link}", hue)

    waiting = [(-root.size, root.path, root)]
    whole: list[drawings.Area] = []
    while waiting and len(waiting) + len(whole) < _DRAWN:
        size, _, node = heapq.heappop(waiting)
        inner = [each for each in node.directories if each.size]
        largest = max((each.size for each in inner), default=0)
        is_fine = largest < -size / 5 and -size < root.size / 2  # such as a hundred languages
        if not inner or is_fine or -size < root.size / _DRAWN:
            whole.append(area(node, -size))
            continue
        for each in inner:
            heapq.heappush(waiting, (-each.size, each.path, each))
        if rest := -size - sum(each.size for each in inner):
            whole.append(area(node, rest))
    return whole + [area(node, -size) for size, _, node in waiting]


def _hues(root: Node) -> dict[str, int]:
    """Choose colours for the directories in which the sizes divide, such as those of /usr."""
    top = root
    while inner := [each for each in top.directories if each.size > 0.6 * top.size > 0]:
        top = inner[0]
    largest = sorted(top.directories, key=lambda each: (-each.size, each.name))
    return {each.path: n for n, each in enumerate(largest[: drawings.HUES - 1])}


def _ancestry(path: str) -> Iterator[str]:
    """Yield a path and those of all directories above it."""
    while path:
        yield path
        path = path.rpartition("/")[0]
