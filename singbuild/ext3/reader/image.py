"""An image's tree, read without mounting it: what it holds, in the order of the seal's inventory.

Reads our images, bare ext2 and ext3, and Singularity 2.x images. Memory is
flat in the size of files. Everything read is hostile until checked: loops,
shared blocks, impossible names and counts end in a DamagedImage, and no walk
reads more than the file system holds. Changes that only the journal knows are not
seen (``superblock.dirty``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from singbuild.ext3.attributes import Attribute
from singbuild.ext3.boot import LAUNCH_LINE, recorded_digest
from singbuild.ext3.budget import ATTRIBUTE, Budget
from singbuild.ext3.node import LOST_AND_FOUND
from singbuild.ext3.number_map import NumberMap
from singbuild.ext3.reader import attributes as read_attributes
from singbuild.ext3.reader import directory as read_directory
from singbuild.ext3.reader.disk import CHECK, HEADER_2X, Disk
from singbuild.ext3.reader.inode import Inode
from singbuild.file_tree import (
    DIRECTORY,
    MAX_PATH,
    PIECE,
    DirEntry,
    Entry,
    Facts,
    FileTree,
    Segment,
    check_names,
    inside,
)

ROOT = 2  # EXT2_ROOT_INO
_DIRECT = 12

Run = tuple[int, int]  # first block, number of blocks; block 0 is a hole


class Image(Disk, FileTree):
    """An open image with its tree. A context manager."""

    check_words = CHECK
    counts_links = True

    def __init__(
        self,
        path: Path,
        *,
        short: bool = False,
        offset: int = 0,
        kind: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(path, short=short, offset=offset)
        self._kind, self._notes = kind, notes
        self._mapped = NumberMap()  # blocks counted so far, by inode number
        self._total = 0
        self._budget = Budget(self.size)  # of attributes; blocks of data are counted by these
        self._names = lru_cache(64)(self._read_names)

    @property
    def facts(self) -> Facts:
        """What boot block and superblock say."""
        block = self.superblock
        kind = "bare ext3 file system"
        if self.boot.startswith(HEADER_2X):
            kind = "Singularity 2.x image (ext3 at offset 31)"
        elif self.boot.startswith(LAUNCH_LINE):
            kind = "singbuild image (ext3, executable)"
        used = (block.blocks - block.free_blocks) * block.block
        uuid, digest = _uuid(block.uuid), recorded_digest(self.boot)
        return Facts(
            self._kind or kind, self.size, used, self.offset, uuid, digest,
            block.created, block.dirty, self.untouched, self._notes,
        )  # fmt: skip

    @property
    def untouched(self) -> bool:
        """Whether the superblock knows of no mount for writing."""
        block = self.superblock
        return not (block.dirty or block.mounts or block.mounted) and block.wtime == block.created

    def root(self) -> Entry:
        """Return the root directory."""
        with self._reading(b""):
            inode = self.inode(ROOT)
        if inode.kind != DIRECTORY:
            raise self.damaged("/", "it is no directory")
        return Entry(b"", inode)

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of what ``names`` found in a directory."""
        name, number, kind = name_row
        with self._reading(directory.path + b"/" + name if directory.path else name):
            path = inside(directory, name)
            inode = self.inode(number)
            if kind and kind != inode.mode >> 12:
                raise ValueError(f"its directory says it is of another type than inode {number}")
        return Entry(path, inode)

    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names, sorted, without "." and ".." and the root's lost+found."""
        with self._reading(directory.path):
            above, listing = self._names(_inode(directory))
            if parent not in (None, above):
                raise ValueError(f'its ".." names inode {above} instead of {parent}')
        return listing

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data as (offset, bytes), ascending, at most PIECE at a time; no holes."""
        size, block = entry.inode.size, self.superblock.block
        most = PIECE // block or 1
        at = 0
        with self._reading(entry.path):
            for start, count in self._runs(_inode(entry)):
                for done in range(0, count if start else 0, most):
                    offset = at + done * block
                    data = self.block(start + done, min(most, count - done))
                    yield offset, data[: size - offset] if offset + len(data) > size else data
                at += count * block

    def segments(self, entry: Entry) -> list[Segment]:
        """Return where a file has data, by its map alone."""
        block, size, at = self.superblock.block, entry.inode.size, 0
        rows: list[Segment] = []
        for start, count in self.runs(entry):
            length = min(count * block, size - at)
            if start and rows and sum(rows[-1]) == at:
                rows[-1] = (rows[-1][0], rows[-1][1] + length)
            elif start:
                rows.append((at, length))
            at += length
        return rows

    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""
        inode = _inode(entry)
        with self._reading(entry.path):
            if not 0 < inode.size <= min(self.superblock.block, MAX_PATH):
                raise ValueError(f"a symbolic link of {inode.size} bytes")
            # i_blocks counts the block of the attributes, too: ext4_inode_is_fast_symlink(), Linux,
            # fs/ext4/inode.c.
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
        inode = _inode(entry)
        if not inode.attribute_block and inode.attributes[:4] != read_attributes.MAGIC:
            return ()
        with self._reading(entry.path):
            values = [*read_attributes.in_inode(inode.attributes)]
            if inode.attribute_block:  # which many inodes may share
                self._budget.take(self.superblock.block)
                values += read_attributes.in_block(self.block(inode.attribute_block))
            self._budget.take(ATTRIBUTE * len(values))
        return tuple(sorted(dict(values).items()))

    def runs(self, entry: Entry) -> Iterator[Run]:
        """Yield where a file's blocks lie, in order, to its end."""
        with self._reading(entry.path):
            yield from self._runs(_inode(entry))

    def _read_names(self, inode: Inode) -> tuple[int, tuple[DirEntry, ...]]:
        """Return the inode of "..", and the names."""
        if not inode.size or inode.size % self.superblock.block:
            raise ValueError(f"a directory of {inode.size} bytes")
        listing = [each for block in self._directory_blocks(inode) for each in block]
        if [name for name, _, _ in listing[:2]] != [b".", b".."] or listing[0][1] != inode.number:
            raise ValueError('a directory that does not begin with "." and ".."')
        above, names = listing[1][1], listing[2:]
        if inode.number == ROOT:
            names = [each for each in names if each[0] != LOST_AND_FOUND]
        return above, check_names(names)

    def _directory_blocks(self, inode: Inode) -> Iterator[Iterable[DirEntry]]:
        for start, count in self._runs(inode):
            if not start:
                raise ValueError("a directory with a hole")
            for number in range(start, start + count):
                yield read_directory.names(self.block(number), filetype=self.superblock.filetype)

    def _runs(self, inode: Inode) -> Iterator[Run]:
        """Where an inode's blocks lie, in order, up to its size; holes are runs of block 0."""
        rest, used = -(-inode.size // self.superblock.block), 0
        if not rest:
            return
        for start, count, tables in self._spans(inode):
            length = min(count, rest)
            rest -= length
            used += tables + (length if start else 0)
            self._count(inode.number, used)
            if length:
                yield start, length
            if not rest:
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
        counted = self._mapped.get(number)
        if used > counted:
            self._total += used - counted
            if self._total > self.superblock.blocks:
                raise ValueError("blocks are used twice: more are mapped than there are")
            self._mapped.set(number, used)


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


def _inode(entry: Entry) -> Inode:
    """Return an entry's inode as this reader gave it."""
    assert isinstance(entry.inode, Inode)
    return entry.inode


def _uuid(data: bytes) -> str:
    digits = data.hex()
    places = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    return "-".join(digits[start:end] for start, end in places)
