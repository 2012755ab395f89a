"""An image's tree, read without mounting it: what it holds, in the order of the seal's inventory.

Reads our images, bare ext2 and ext3, and Singularity 2.x images. Memory is
flat in the size of files. Everything read is hostile until checked: loops,
shared blocks, impossible names and counts end in a DamagedImage, and no walk
reads more than the file system holds. Changes that only the journal knows are not
seen (``superblock.dirty``).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from singbuild.errors import ImageError
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.node import LOST_AND_FOUND, shown
from singbuild.ext3.reader import attributes as read_attributes
from singbuild.ext3.reader import directory as read_directory
from singbuild.ext3.reader.disk import Disk
from singbuild.ext3.reader.inode import DIRECTORY, REGULAR, SYMLINK, Inode
from singrun import syscalls

ROOT = 2  # EXT2_ROOT_INO
MAX_PATH = 4095  # PATH_MAX without its NUL
PIECE = 1 << 20  # bytes of file data read at a time
_DIRECT = 12

Run = tuple[int, int]  # first block, number of blocks; block 0 is a hole


class Entry(NamedTuple):
    """A name and its inode. path: relative to the root, no leading slash; b"" is the root."""

    path: bytes
    inode: Inode

    @property
    def shown(self) -> str:
        """The path for a message or a list."""
        return shown(self.path)


class Image(Disk):
    """An open image with its tree. A context manager."""

    def __init__(self, path: Path, *, short: bool = False) -> None:
        super().__init__(path, short=short)
        self._mapped: dict[int, int] = {}  # blocks counted so far, by inode number
        self._total = 0
        self._names = lru_cache(64)(self._read_names)

    def walk(self) -> Iterator[Entry]:
        """Yield every name: directories in pre-order, each one's own entries together and sorted.

        Names that share an inode carry the same ``inode.number``. The root's
        lost+found is left out.
        """
        root = self.root()
        yield root
        seen = {ROOT}
        waiting = [(root, ROOT)]
        while waiting:
            directory, parent = waiting.pop()
            below = []
            for entry in self.listed(directory, parent):
                if entry.inode.kind == DIRECTORY:
                    if entry.inode.number in seen:
                        raise self.damaged(entry.shown, "the directory has two names")
                    seen.add(entry.inode.number)
                    below.append((entry, directory.inode.number))
                yield entry
            waiting.extend(reversed(below))

    def root(self) -> Entry:
        """Return the root directory."""
        with self._reading(b""):
            inode = self.inode(ROOT)
        if inode.kind != DIRECTORY:
            raise self.damaged("/", "it is no directory")
        return Entry(b"", inode)

    def listed(self, directory: Entry, parent: int | None = None) -> Iterator[Entry]:
        """Yield a directory's entries, sorted. parent: the inode its ".." has to name."""
        for found in self.names(directory, parent):
            yield self.named(directory, found)

    def named(self, directory: Entry, found: read_directory.Found) -> Entry:
        """Return the entry of what ``names`` found in a directory."""
        name, number, kind = found
        path = directory.path + b"/" + name if directory.path else name
        with self._reading(path):
            if len(path) > MAX_PATH:
                raise ValueError(f"its path has over {MAX_PATH} bytes")
            inode = self.inode(number)
            if kind and kind != inode.mode >> 12:
                raise ValueError(f"its directory says it is of another type than inode {number}")
        return Entry(path, inode)

    def names(
        self, directory: Entry, parent: int | None = None
    ) -> tuple[read_directory.Found, ...]:
        """Return a directory's names, sorted, without "." and ".." and the root's lost+found."""
        with self._reading(directory.path):
            above, found = self._names(directory.inode)
            if parent not in (None, above):
                raise ValueError(f'its ".." names inode {above} instead of {parent}')
        return found

    def find(self, path: bytes | str, *, follow: bool = True) -> Entry | None:
        """Return what a path names, or None. Links on the way lead inside the image.

        follow: also follow the last component. Raises ImageError for a circle of links.
        """
        wanted = path if isinstance(path, bytes) else path.encode()
        waiting = [part for part in reversed(wanted.split(b"/")) if part not in (b"", b".")]
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
                        f"{shown(wanted.lstrip(b'/'))}: too many symbolic links in {self.path}"
                    )
                target = self.target(entry)
                trail = trail[:1] if target.startswith(b"/") else trail
                waiting += [
                    step for step in reversed(target.split(b"/")) if step not in (b"", b".")
                ]
            else:
                trail.append(entry)
        return trail[-1]

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data as (offset, bytes), ascending, at most PIECE at a time; no holes."""
        size, block = entry.inode.size, self.superblock.block
        most = PIECE // block or 1
        at = 0
        with self._reading(entry.path):
            for start, count in self._runs(entry.inode):
                for done in range(0, count if start else 0, most):
                    offset = at + done * block
                    data = self.block(start + done, min(most, count - done))
                    yield offset, data[: size - offset] if offset + len(data) > size else data
                at += count * block

    def stream(self, entry: Entry) -> Iterator[bytes]:
        """Yield a file's bytes in order, holes as zeros, at most PIECE at a time."""
        at = 0
        for offset, data in self.data(entry):
            yield from _zeros(offset - at)
            yield data
            at = offset + len(data)
        yield from _zeros(entry.inode.size - at)

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

    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""
        inode = entry.inode
        with self._reading(entry.path):
            if not 0 < inode.size <= self.superblock.block:
                raise ValueError(f"a symbolic link of {inode.size} bytes")
            attribute = self.superblock.block // 512 if inode.attribute_block else 0
            if inode.sectors == attribute and inode.size < 60:
                target = inode.mapped[: inode.size]
            else:
                ((start, _),) = self._runs(inode)
                target = self.block(start)[: inode.size]
            if b"\0" in target:
                raise ValueError("a symbolic link with a NUL in its target")
        return target

    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        """Return extended attributes and ACLs as getxattr(2) gives them, sorted by name."""
        inode = entry.inode
        if not inode.attribute_block and inode.attributes[:4] != read_attributes.MAGIC:
            return ()
        with self._reading(entry.path):
            found = dict(read_attributes.in_inode(inode.attributes))
            if inode.attribute_block:
                found |= read_attributes.in_block(self.block(inode.attribute_block))
        return tuple(sorted(found.items()))

    def runs(self, entry: Entry) -> Iterator[Run]:
        """Yield where a file's blocks lie, in order, to its end."""
        with self._reading(entry.path):
            yield from self._runs(entry.inode)

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

    def _read_names(self, inode: Inode) -> tuple[int, tuple[read_directory.Found, ...]]:
        """Return the inode of "..", and the names."""
        if not inode.size or inode.size % self.superblock.block:
            raise ValueError(f"a directory of {inode.size} bytes")
        found = [each for block in self._directory_blocks(inode) for each in block]
        if [name for name, _, _ in found[:2]] != [b".", b".."] or found[0][1] != inode.number:
            raise ValueError('a directory that does not begin with "." and ".."')
        above, names = found[1][1], sorted(found[2:])
        if inode.number == ROOT:
            names = [each for each in names if each[0] != LOST_AND_FOUND]
        for one, other in pairwise(names):
            if one[0] == other[0]:
                raise ValueError(f"two entries have the name {shown(one[0])[1:]}")
        if any(name in (b".", b"..") for name, _, _ in names):
            raise ValueError('a second "." or ".."')
        return above, tuple(names)

    def _directory_blocks(self, inode: Inode) -> Iterator[Iterable[read_directory.Found]]:
        for start, count in self._runs(inode):
            if not start:
                raise ValueError("a directory with a hole")
            for number in range(start, start + count):
                yield read_directory.names(self.block(number), filetype=self.superblock.filetype)

    def _runs(self, inode: Inode) -> Iterator[Run]:
        """Where an inode's blocks lie, in order, up to its size; holes are runs of block 0."""
        left, used = -(-inode.size // self.superblock.block), 0
        if not left:
            return
        for start, count, tables in self._spans(inode):
            length = min(count, left)
            left -= length
            used += tables + (length if start else 0)
            self._count(inode.number, used)
            if length:
                yield start, length
            if not left:
                return
        raise ValueError(f"a size of {inode.size} bytes, more than an inode can map")

    def _spans(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """Yield runs, past the size too, each with the number of indirect blocks read for it."""
        slots = struct.unpack("<15I", inode.mapped)
        for start, count in _merged(slots[:_DIRECT]):
            yield start, count, 0
        for depth, slot in enumerate(slots[_DIRECT:], 1):
            yield from self._below(slot, depth)

    def _below(self, block: int, depth: int) -> Iterator[tuple[int, int, int]]:
        """Yield what an indirect block maps."""
        pointers = self.superblock.block // 4
        if not block:
            yield 0, pointers**depth, 0
            return
        yield 0, 0, 1
        numbers = struct.unpack(f"<{pointers}I", self.block(block))
        if depth == 1:
            for start, count in _merged(numbers):
                yield start, count, 0
            return
        for number in numbers:
            yield from self._below(number, depth - 1)

    def _count(self, number: int, used: int) -> None:
        """Refuse shared blocks: all inodes together map no more blocks than there are.

        So a loop ends, and what is read is bounded by what there is.
        """
        counted = self._mapped.get(number, 0)
        if used > counted:
            self._mapped[number] = used
            self._total += used - counted
            if self._total > self.superblock.blocks:
                raise ValueError("blocks are used twice: more are mapped than there are")


def _merged(numbers: tuple[int, ...]) -> Iterator[Run]:
    """Neighbouring block numbers as runs."""
    start = count = 0
    for number in numbers:
        if count and number == (start + count if start else 0):
            count += 1
            continue
        if count:
            yield start, count
        start, count = number, 1
    yield start, count


def _zeros(size: int) -> Iterator[bytes]:
    piece = bytes(min(size, PIECE))
    while size > 0:
        yield piece[:size]
        size -= len(piece)


def newest(image: Image) -> int:
    """Return when an image was made, else its newest file; seconds since 1970."""
    return image.superblock.made or max(entry.inode.mtime for entry in image.walk())
