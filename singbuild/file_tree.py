"""An opened image, of whatever kind: names, inodes, data, read without mounting anything.

``FileTree`` is what readers of images give, and what everything that looks into an image takes:
``inspect``, ``diff``, ``verify``, ``export``, the writers of other kinds. A kind of image supplies
the abstract methods; walks, look-ups and streams are the same for all.

Everything read is hostile until checked: loops, impossible names and counts end in a DamagedImage.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from singbuild.errors import ImageError
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.holes import zeros
from singbuild.ext3.node import one_line, shown
from singbuild.ext3.number_map import NumberMap
from singrun import syscalls

MAX_PATH = 4095  # PATH_MAX without its NUL
_LAST_SECOND = 253_402_300_799  # of the year 9999
PIECE = 1 << 20  # bytes of file data read at a time
REGULAR, DIRECTORY, SYMLINK = "file", "directory", "symbolic link"
KINDS = {0o1: "fifo", 0o2: "character device", 0o4: DIRECTORY, 0o6: "block device",
         0o10: REGULAR, 0o12: SYMLINK, 0o14: "socket"}  # fmt: skip
"""What an inode is, by the first four bits of its mode: inode(7)."""

DirEntry = tuple[bytes, int, int]
"""A name in a directory, a number by which its inode is found, its type as in KINDS or 0."""

Segment = tuple[int, int]
"""Where a file has data: offset, length; bytes."""


class DamagedImage(ImageError):  # noqa: N818 - it is an ImageError, and reads as one
    """A file that contradicts itself.

    image: the file. where: a path inside it, with its slash, or the words for a
    place outside all files. reason: what is wrong there. check: what else would tell.
    """

    def __init__(self, image: Path, where: str, reason: str, check: str = "") -> None:
        super().__init__(
            f"the image {image} is damaged at {where}",
            why=reason,
            remedy=f"Copy or build it again{check}.",
        )
        self.image, self.where, self.reason = image, where, reason


class Inode(Protocol):
    """One inode, as readers give it.

    number: names that share an inode have the same; mode: with its type bits; size: bytes;
    mtime: whole seconds since 1970; links: names that it has; device: major and minor number
    of a device node, (0, 0) for anything else; disk_bytes: about what its data takes.
    """

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def mode(self) -> int: ...  # noqa: D102
    @property
    def uid(self) -> int: ...  # noqa: D102
    @property
    def gid(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def mtime(self) -> int: ...  # noqa: D102
    @property
    def links(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def disk_bytes(self) -> int: ...  # noqa: D102
    @property
    def kind(self) -> str:
        """REGULAR, DIRECTORY, SYMLINK or the words for another type."""

    @property
    def permissions(self) -> int:
        """The mode without its type."""


@dataclass(frozen=True, slots=True)
class PlainInode:
    """An inode as plain values: the attributes of Inode and no others."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int = 1
    device: tuple[int, int] = (0, 0)
    disk_bytes: int = 0

    @property
    def kind(self) -> str:
        """REGULAR, DIRECTORY, SYMLINK or the words for another type."""
        return KINDS[self.mode >> 12]

    @property
    def permissions(self) -> int:
        """The mode without its type."""
        return self.mode & 0o7777


class Entry(NamedTuple):
    """A name and its inode. path: relative to the root, no leading slash; b"" is the root."""

    path: bytes
    inode: Inode

    @property
    def shown(self) -> str:
        """The path for a message or a list."""
        return shown(self.path)


@dataclass(frozen=True)
class Facts:
    """What a file says of itself as a container of the tree.

    kind: in words; size: of the file, in bytes; used: of these by the tree; offset: of the file
    system in the file; uuid: "" where there is none; digest: of the content, as recorded;
    created: seconds since 1970, 0 if that is not told; dirty: changes in a journal are not seen;
    untouched: it would show if it had been mounted for writing, and does not;
    notes: what people should know.
    """

    kind: str
    size: int
    used: int
    offset: int = 0
    uuid: str = ""
    digest: str | None = None
    created: int = 0
    dirty: bool = False
    untouched: bool = False
    notes: tuple[str, ...] = ()


class FileTree(ABC):
    """An open image with its tree: a context manager. path: the image, for messages."""

    path: Path
    check_words = ""  # what tells more of a damaged file: see DamagedImage
    counts_links = False  # inodes tell how many names they have; see check_single

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What a kind of image supplies

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What the file says of itself."""

    @abstractmethod
    def root(self) -> Entry:
        """Return the root directory."""

    @abstractmethod
    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names, sorted, without "." and "..".

        parent: the inode that its ".." has to name, where it names one.
        """

    @abstractmethod
    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of what ``names`` found in a directory."""

    @abstractmethod
    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data as (offset, bytes), ascending, at most PIECE at a time; no holes.

        Offsets are multiples of 4096.
        """

    @abstractmethod
    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""

    @abstractmethod
    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        """Return extended attributes and ACLs as getxattr(2) gives them, sorted by name."""

    # The same for all

    def damaged(self, where: str, reason: object) -> DamagedImage:
        """Make the error that names this image."""
        return DamagedImage(self.path, where, str(reason), self.check_words)

    def check_clean(self) -> None:
        """Refuse an image whose journal is not empty: only the kernel replays it."""
        if self.facts.dirty:
            raise ImageError(
                f"{self.path} was not unmounted cleanly",
                why="Its journal holds changes that are not in their place yet.",
                remedy=f"Repair it first: e2fsck -fy {self.path}",
            )

    def newest(self) -> int:
        """Return when the image was made, else its newest file; seconds since 1970."""
        return self.facts.created or max(entry.inode.mtime for entry in self.walk())

    def walk(self, top: Entry | None = None) -> Iterator[Entry]:
        """Yield every name: directories in pre-order, each one's own entries together and sorted.

        top: begin at this entry instead of the root. Names that share an inode carry the same
        ``inode.number``. The root's lost+found is left out.
        """
        top = top or self.root()
        yield top
        if top.inode.kind == DIRECTORY:
            for _, listing in self.listings(top):
                yield from listing

    def listings(self, top: Entry | None = None) -> Iterator[tuple[Entry, Iterator[Entry]]]:
        """Yield every directory, in pre-order, with its entries, sorted.

        The caller has to consume the entries before it takes the next directory. top: begin at
        this directory instead of the root.
        """
        root = self.root()
        top = top or root
        numbers = NumberMap()
        numbers.set(top.inode.number, 1)
        waiting: list[tuple[Entry, int | None]] = [(top, None if top.path else root.inode.number)]
        while waiting:
            directory, parent = waiting.pop()
            below: list[tuple[Entry, int | None]] = []
            yield directory, self._listing(directory, parent, numbers, below)
            waiting.extend(reversed(below))

    def _listing(
        self,
        directory: Entry,
        parent: int | None,
        numbers: NumberMap,
        below: list[tuple[Entry, int | None]],
    ) -> Iterator[Entry]:
        """Yield a directory's entries. numbers: as check_single has it; below: gets directories."""
        for entry in self.listed(directory, parent):
            self.check_single(entry, numbers)
            if entry.inode.kind == DIRECTORY:
                below.append((entry, directory.inode.number))
            yield entry

    def check_single(self, entry: Entry, numbers: NumberMap) -> None:
        """Refuse another name of an inode that has one, or its data would be read for each.

        numbers: of such inodes whose names were found so far. Raises DamagedImage.
        """
        inode = entry.inode
        is_single = inode.kind == DIRECTORY or (self.counts_links and inode.links < 2)
        if is_single and not numbers.add(inode.number):
            raise self.damaged(entry.shown, f"the {inode.kind} has two names, but one link")

    def listed(self, directory: Entry, parent: int | None = None) -> Iterator[Entry]:
        """Yield a directory's entries, sorted. parent: the inode its ".." has to name."""
        for row in self.names(directory, parent):
            yield self.named(directory, row)

    def find(self, path: bytes | str, *, follow: bool = True) -> Entry | None:
        """Return what a path names, or None. Links on the way lead inside the image.

        follow: also follow the last component. Raises ImageError for a circle of links.
        """
        path_bytes = path if isinstance(path, bytes) else path.encode(errors="surrogateescape")
        waiting = [part for part in reversed(path_bytes.split(b"/")) if part not in (b"", b".")]
        trail, links = [self.root()], 0
        while waiting:
            part = waiting.pop()
            if trail[-1].inode.kind != DIRECTORY:
                return None
            if part == b"..":
                trail = trail[:-1] or trail
                continue
            entry = self._child(trail[-1], part)
            if entry is None:
                return None
            if entry.inode.kind == SYMLINK and (waiting or follow):
                links += 1
                if links > syscalls.MAXSYMLINKS:
                    raise ImageError(
                        f"{shown(path_bytes.lstrip(b'/'))}: too many symbolic links in {self.path}"
                    )
                target = self.target(entry)
                trail = trail[:1] if target.startswith(b"/") else trail
                waiting += [
                    step for step in reversed(target.split(b"/")) if step not in (b"", b".")
                ]
            else:
                trail.append(entry)
        return trail[-1]

    def stream(self, entry: Entry) -> Iterator[bytes]:
        """Yield a file's bytes in order, holes as zeros, at most PIECE at a time."""
        at = 0
        for offset, data in self.data(entry):
            yield from zeros(offset - at)
            yield data
            at = offset + len(data)
        yield from zeros(entry.inode.size - at)

    def segments(self, entry: Entry) -> list[Segment]:
        """Return where a file has data."""
        rows: list[Segment] = []
        for offset, data in self.data(entry):
            if rows and sum(rows[-1]) == offset:
                rows[-1] = (rows[-1][0], rows[-1][1] + len(data))
            else:
                rows.append((offset, len(data)))
        return rows

    def read(self, entry: Entry, limit: int = 64 << 20) -> bytes:
        """Return a regular file's content. Raises ImageError when it has over ``limit`` bytes."""
        if entry.inode.kind != REGULAR:
            raise ImageError(f"{entry.shown} in {self.path} is a {entry.inode.kind}, not a file")
        if entry.inode.size > limit:
            raise ImageError(
                f"{entry.shown} in {self.path} is too large to read at once",
                why=f"it has {entry.inode.size} bytes; at most {limit} are expected",
            )
        return b"".join(self.stream(entry))

    def _child(self, directory: Entry, name: bytes) -> Entry | None:
        names = self.names(directory)
        place = bisect_left(names, (name,))
        if place == len(names) or names[place][0] != name:
            return None
        return self.named(directory, names[place])

    @contextmanager
    def _reading(self, path: bytes) -> Iterator[None]:
        """Say where in the tree something unsound was found."""
        try:
            yield
        except ValueError as error:
            raise self.damaged(shown(path), error) from error


def inside(directory: Entry, name: bytes) -> bytes:
    """Return the path of a name in a directory. Raises ValueError for one that is too long."""
    path = directory.path + b"/" + name if directory.path else name
    if len(path) > MAX_PATH:
        raise ValueError(f"its path has over {MAX_PATH} bytes")
    return path


def check_names(names: list[DirEntry]) -> tuple[DirEntry, ...]:
    """Return a directory's names, sorted. Raises ValueError for those that no directory holds."""
    names.sort()
    last = b""
    for name, _, _ in names:
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
            raise ValueError(f"an entry has the impossible name {one_line(name)!r}")
        if name == last:
            raise ValueError(f"two entries have the name {one_line(name)}")
        last = name
    return tuple(names)


def written(seconds: int) -> str:
    """Return a time as RFC 3339 writes it, moved into the years 1970 to 9999."""
    moment = datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def opened(path: Path) -> int:
    """Open an image file for reading. Raises ImageError."""
    try:
        # O_NONBLOCK keeps a FIFO from holding us; a regular file ignores it.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ImageError(
            f"cannot open the image {path}", why=f"{error.strerror}", remedy="Check the path."
        ) from error
