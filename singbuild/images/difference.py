"""What differs between two images: packages, and every path with what differs in it.

Both trees are walked side by side, a directory at a time, so memory does not
grow with them. Nothing is mounted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.ext3.node import MANIFEST, one_line, shown
from singbuild.ext3.number_map import NumberMap
from singbuild.file_tree import DIRECTORY, REGULAR, SYMLINK, Entry, FileTree
from singbuild.formats.loading import opened
from singbuild.packages.databases import software
from singbuild.packages.package import Package
from singbuild.packages.tree import ImageTree

ADDED, REMOVED, CHANGED = "added", "removed", "changed"

Pair = tuple[Entry | None, Entry | None]
Piece = tuple[int, bytes]  # offset, data
_END: Piece = (1 << 63, b"")


@dataclass(frozen=True)
class Detail:
    """One thing that differs in a path. what: content, mode, owner …; was, now: as text."""

    what: str
    was: str
    now: str


@dataclass(frozen=True)
class FileChange:
    """A path that differs. kind: ADDED, REMOVED or CHANGED; details only for the last."""

    kind: str
    path: bytes
    details: tuple[Detail, ...] = ()

    @property
    def shown(self) -> str:
        """The path on one line."""
        return shown(self.path)


@dataclass(frozen=True)
class PackageChange:
    """A package that differs. was, now: its versions, "" where it is missing."""

    kind: str
    manager: str
    name: str
    arch: str
    was: str
    now: str


def want_comparison(one: FileTree, other: FileTree) -> bool:
    """Return False when both record one digest and neither was written to since it was built."""
    records = {image.facts.digest if image.facts.untouched else None for image in (one, other)}
    return None in records or len(records) > 1


def files(one: FileTree, other: FileTree, *, times: bool = False) -> Iterator[FileChange]:
    """Yield every path that differs, each directory's own entries together and sorted.

    times: modification times count too. Raises ImageError for a damaged image.
    """
    yield from _Walk(one, other, times).changes()


def differing_paths(one: Path, other: Path) -> Iterator[FileChange]:
    """Yield every path that differs between two images on disk, times included."""
    with opened(one) as first, opened(other) as second:
        yield from files(first, second, times=True)


def package_changes(one: FileTree, other: FileTree) -> list[PackageChange]:
    """Return the packages that differ, sorted by manager and name."""
    was, now = (_versions(software(ImageTree(image)).packages) for image in (one, other))
    changes = []
    for key in sorted(was.keys() | now.keys()):
        before, after = was.get(key, ""), now.get(key, "")
        if before != after:
            kind = CHANGED if before and after else ADDED if after else REMOVED
            changes.append(PackageChange(kind, *key, before, after))
    return changes


def _versions(packages: Iterable[Package]) -> dict[tuple[str, str, str], str]:
    """All versions of each package: of a kernel or a Python module there may be several."""
    versions: dict[tuple[str, str, str], str] = {}
    for each in packages:
        key = each.kind, each.name, each.arch
        version = each.version or "(no version)"
        versions[key] = f"{versions[key]}, {version}" if key in versions else version
    return versions


@dataclass
class _Walk:
    """One walk over two trees.

    first: the first path of each inode with several, by image. numbers: as check_single has them.
    """

    one: FileTree
    other: FileTree
    times: bool
    first: tuple[dict[int, bytes], dict[int, bytes]] = field(default_factory=lambda: ({}, {}))
    numbers: tuple[NumberMap, NumberMap] = field(default_factory=lambda: (NumberMap(), NumberMap()))

    def changes(self) -> Iterator[FileChange]:
        roots = self.one.root(), self.other.root()
        yield from self._pair(roots)
        waiting: list[Pair] = [roots]
        while waiting:
            below = []
            for pair in self._children(waiting.pop()):
                yield from self._pair(pair)
                if any(entry and entry.inode.kind == DIRECTORY for entry in pair):
                    below.append(pair)
            waiting.extend(reversed(below))

    def _children(self, directories: Pair) -> Iterator[Pair]:
        """Pair what two directories hold, by name."""
        ours = self._listed(self.one, self.numbers[0], directories[0])
        theirs = self._listed(self.other, self.numbers[1], directories[1])
        one, other = next(ours, None), next(theirs, None)
        while one or other:
            if other is None or (one and one.path < other.path):
                yield one, None
                one = next(ours, None)
            elif one is None or other.path < one.path:
                yield None, other
                other = next(theirs, None)
            else:
                yield one, other
                one, other = next(ours, None), next(theirs, None)

    def _listed(
        self, image: FileTree, numbers: NumberMap, directory: Entry | None
    ) -> Iterator[Entry]:
        if directory is None or directory.inode.kind != DIRECTORY:
            return
        for entry in image.listed(directory):
            image.check_single(entry, numbers)
            yield entry

    def _pair(self, pair: Pair) -> Iterator[FileChange]:
        one, other = pair
        groups = tuple(map(_group, self.first, pair))
        if one and other:
            if details := tuple(self._details(one, other, *groups)):
                yield FileChange(CHANGED, one.path, details)
        elif entry := one or other:
            yield FileChange(REMOVED if one else ADDED, entry.path)

    def _details(self, one: Entry, other: Entry, was: bytes, now: bytes) -> Iterator[Detail]:
        """Compare two entries of one path. was, now: the first path of each one's inode."""
        a, b = one.inode, other.inode
        if a.kind != b.kind:
            yield Detail("type", a.kind, b.kind)
            return
        is_relinked = was != now
        if is_relinked:
            yield Detail("hard link", shown(was), shown(now))
        elif was != one.path:
            return  # compared under its first name
        yield from _differing("mode", f"{a.permissions:04o}", f"{b.permissions:04o}")
        yield from _differing("owner", f"{a.uid}:{a.gid}", f"{b.uid}:{b.gid}")
        yield from _differing("device", "{}:{}".format(*a.device), "{}:{}".format(*b.device))
        if self.times:
            yield from _differing("mtime", str(a.mtime), str(b.mtime))
        if not is_relinked:  # else the same data would be read once for each of its names
            yield from self._attributes(one, other)
            yield from self._content(one, other)

    def _attributes(self, one: Entry, other: Entry) -> Iterator[Detail]:
        was, now = dict(self.one.attributes(one)), dict(self.other.attributes(other))
        for name in sorted(was.keys() | now.keys()):
            what = f"attribute {one_line(name)}"
            yield from _differing(what, _hex(was.get(name)), _hex(now.get(name)))

    def _content(self, one: Entry, other: Entry) -> Iterator[Detail]:
        if one.inode.kind == SYMLINK:
            was, now = self.one.target(one), self.other.target(other)
            yield from _differing("target", one_line(was), one_line(now))
        # The manifest follows from all the rest.
        elif one.inode.kind == REGULAR and one.path != MANIFEST and not self._same_data(one, other):
            yield Detail("content", f"{one.inode.size} bytes", f"{other.inode.size} bytes")

    def _same_data(self, one: Entry, other: Entry) -> bool:
        """Compare data where either has some; what neither stores is zeros in both."""
        if one.inode.size != other.inode.size:
            return False
        return same_data(self.one.data(one), self.other.data(other))


def _group(first: dict[int, bytes], entry: Entry | None) -> bytes:
    """The first path of an entry's inode."""
    if entry is None or entry.inode.links < 2 or entry.inode.kind == DIRECTORY:
        return entry.path if entry else b""
    return first.setdefault(entry.inode.number, entry.path)


def same_data(ours: Iterator[Piece], theirs: Iterator[Piece]) -> bool:
    """Whether two files' stored pieces, ascending, hold the same bytes; gaps are zeros."""
    one, other = next(ours, _END), next(theirs, _END)
    while one is not _END or other is not _END:
        start = min(one[0], other[0])
        limit = min(p[0] + len(p[1]) if p[0] == start else p[0] for p in (one, other) if p[1])
        size = limit - start
        if _part(one, start, size) != _part(other, start, size):
            return False
        one, other = _after(one, limit, ours), _after(other, limit, theirs)
    return True


def _part(piece: Piece, start: int, size: int) -> bytes:
    return piece[1][:size] if piece[0] == start else bytes(size)


def _after(piece: Piece, limit: int, rest: Iterator[Piece]) -> Piece:
    """What of a piece lies after ``limit``, else the next piece."""
    offset, data = piece
    if offset >= limit:
        return piece
    tail = data[limit - offset :]
    return (limit, tail) if tail else next(rest, _END)


def _differing(what: str, was: str, now: str) -> Iterator[Detail]:
    if was != now:
        yield Detail(what, was, now)


def _hex(value: bytes | None) -> str:
    return "none" if value is None else value.hex()
