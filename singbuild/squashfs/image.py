"""A squashfs as a tree: names, inodes, data, each read when it is asked for.

No walk takes more memory than its names, and what is read in all is bounded (``ext3/budget.py``).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from singbuild.errors import ImageError
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.budget import ATTRIBUTE, Budget
from singbuild.ext3.node import LOST_AND_FOUND
from singbuild.ext3.number_map import NumberMap
from singbuild.file_tree import (
    DIRECTORY,
    DirEntry,
    Entry,
    Facts,
    FileTree,
    check_names,
    inside,
    opened,
)
from singbuild.squashfs import inode as read_inode
from singbuild.squashfs import superblock
from singbuild.squashfs.inode import NONE, Inode
from singbuild.squashfs.superblock import MAGIC, SIZE

HEADER_2X, HEADER_2X_SIZE = b"#!/usr/bin/env run-singularity\n", 31
_METADATA = 8192  # bytes of a block of a table, unpacked
_STORED = 0x8000  # of a table's block: it is not packed
_DATA_STORED = 1 << 24  # likewise of a block of data
_NAMES, _NAMES_EACH = 100_000, 16  # names in any case, and on the average of an inode
_LONGEST_LIST = 64 << 20  # bytes of one file's list of blocks: 2 TiB of data
_PREFIXES = (b"user.", b"trusted.", b"security.")
_ELSEWHERE = 0x100  # of an attribute: its value stands with another one
_LARGEST_VALUE = 65536  # XATTR_SIZE_MAX
_MOST_ATTRIBUTES = 1024
_BLOCK_SIZE = struct.Struct("<I")
_DIRECTORY_HEAD, _DIRECTORY_ENTRY = struct.Struct("<IIi"), struct.Struct("<HhHH")
# SQUASHFS_DIR_COUNT: squashfs-tools and Linux, squashfs_fs.h.
_ENTRIES_OF_A_HEAD = 256


class _Metadata:
    """A place in a table, from which bytes are taken in order. Raises ValueError at its end."""

    def __init__(self, image: SquashfsImage, table: int, end: int, block: int, offset: int) -> None:
        self._image, self._end = image, end
        self._next, self._buffer = table + block, b""
        self._skip = offset
        if offset >= _METADATA:
            raise ValueError(f"the offset {offset} lies outside a block")

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if size > _LONGEST_LIST:
            raise ValueError(f"a list of {size} bytes")
        parts, have = [self._buffer], len(self._buffer)
        while have < size:
            data, self._next = self._image.metadata(self._next, self._end)
            data, self._skip = data[self._skip :], 0
            parts.append(data)
            have += len(data)
        whole = b"".join(parts) if len(parts) > 1 else self._buffer
        self._buffer = whole[size:]
        return whole[:size]


class SquashfsImage(FileTree):
    """An open squashfs.

    offset: where it begins in the file; room: how many bytes it may have there; kind, notes: what
    is said of the file that it is in.
    """

    counts_links = True

    def __init__(
        self,
        path: Path,
        *,
        offset: int = 0,
        room: int = 0,
        kind: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path, self.offset, self._kind, self._notes = path, offset, kind, notes
        self._fd = opened(path)
        try:
            self.size = os.fstat(self._fd).st_size
            if not offset and os.pread(self._fd, HEADER_2X_SIZE, 0) == HEADER_2X:
                self.offset, self._kind = HEADER_2X_SIZE, "Singularity 2.4 image (squashfs at 31)"
            self._room = room or self.size - self.offset
            head = os.pread(self._fd, SIZE, self.offset)
            if head[:4] != MAGIC:
                why = f"There is no squashfs superblock at offset {self.offset}."
                raise ImageError(f"{path} is not an image", why=why)
            try:
                self.superblock = superblock.superblock(head, self._room)
                self._unpack = superblock.unpacker(self.superblock.compression)
            except ValueError as error:
                raise self.damaged("the superblock", error) from error
        except BaseException:
            self.close()
            raise
        self._budget = Budget(self.size)
        # The superblock may state any number of inodes; a name takes a byte of the file, packed.
        self._names_left = _NAMES + min(_NAMES_EACH * self.superblock.inodes, self.size)
        self._lists_left = _LONGEST_LIST + self.size  # bytes of all lists of blocks
        self._counted: set[int] = set()
        self._listed_numbers: set[int] = set()
        self._places = NumberMap()  # of inodes read so far, by number; 1 is added to each
        # 8 KiB each, and a fragment has at most a mebibyte: 2 and 8 MiB of memory, whatever
        # the image.
        self._metadata = lru_cache(256)(self._read_metadata)
        self._fragment = lru_cache(8)(self._read_fragment)
        self._names = lru_cache(64)(self._read_names)
        self._inodes = lru_cache(1024)(self._read_inode)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def facts(self) -> Facts:
        """What the superblock says."""
        block = self.superblock
        kind = self._kind or f"squashfs ({block.compression})"
        return Facts(
            kind, self.size, block.used, self.offset, created=block.created, notes=self._notes
        )

    def root(self) -> Entry:
        """Return the root directory."""
        with self._reading(b""):
            inode = self._inodes(self.superblock.root)
        if inode.kind != DIRECTORY:
            raise self.damaged("/", "it is no directory")
        return Entry(b"", inode)

    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names, sorted. A number is where the inode is."""
        inode = _inode(directory)
        with self._reading(directory.path):
            if parent not in (None, inode.parent, inode.number):
                raise ValueError(f'its ".." names inode {inode.parent} instead of {parent}')
            listing = self._names(inode)
        if not directory.path:
            listing = tuple(each for each in listing if each[0] != LOST_AND_FOUND)
        return listing

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of what ``names`` found in a directory."""
        name, place, kind = name_row
        with self._reading(directory.path + b"/" + name if directory.path else name):
            path, inode = inside(directory, name), self._inodes(place)
            if kind != inode.mode >> 12:
                raise ValueError("its directory says it is of another type than its inode")
        return Entry(path, inode)

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data as (offset, bytes), ascending, a block at a time; no holes."""
        inode, block = _inode(entry), self.superblock.block
        with self._reading(entry.path):
            self._count(inode)
            place, at = inode.start, 0
            for (size,) in _BLOCK_SIZE.iter_unpack(inode.blocks):
                stored = size & ~_DATA_STORED
                if stored:
                    size_wanted, block_data = (
                        min(block, inode.size - at),
                        self._data_block(place, size),
                    )
                    if len(block_data) < size_wanted:
                        raise ValueError(
                            f"a block holds {len(block_data)} bytes instead of {size_wanted}"
                        )
                    yield at, block_data[:size_wanted]
                place, at = place + stored, at + block
            if inode.fragment != NONE and at < inode.size:
                whole = self._fragment(inode.fragment)
                end = whole[inode.offset : inode.offset + inode.size - at]
                if len(end) != inode.size - at:
                    raise ValueError("its end lies outside its fragment")
                yield at, end

    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""
        return _inode(entry).link

    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        """Return extended attributes, sorted by name; squashfs holds no ACLs."""
        number = _inode(entry).attribute
        if number == NONE or not self.superblock.attribute_table:
            return ()
        with self._reading(entry.path):
            return tuple(sorted(self._attributes(number)))

    # Tables

    def metadata(self, place: int, end: int) -> tuple[bytes, int]:
        """Return what the table's block at ``place`` holds, and where the next one begins."""
        data, following = self._metadata(place)
        if not SIZE <= place < end or following > end:
            raise ValueError("a table ends before what belongs there")
        return data, following

    def _read_metadata(self, place: int) -> tuple[bytes, int]:
        header = int.from_bytes(self._read(place, 2), "little")
        size = header & ~_STORED
        if not 0 < size <= _METADATA:
            raise ValueError(f"a block of a table has {size} bytes")
        data = self._read(place + 2, size)
        if not header & _STORED:
            data = self._unpack(data, _METADATA)
        if not data:
            raise ValueError("a block of a table is empty")
        return data, place + 2 + size

    def _read(self, offset: int, size: int) -> bytes:
        """Read exactly; offset: from the file system's start."""
        if not 0 <= offset <= self.superblock.used - size:
            raise ValueError(f"byte {offset} lies outside the file system")
        try:
            data = os.pread(self._fd, size, self.offset + offset)
        except OSError as error:
            raise ValueError(f"byte {offset} cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise ValueError(f"the file ends at byte {self.size}, before what belongs here")
        return data

    def _row(self, table: int, number: int, size: int) -> bytes:
        """Return a row of a table whose blocks are found by a list of their places."""
        each = _METADATA // size
        place = int.from_bytes(self._read(table + number // each * 8, 8), "little")
        data, _ = self.metadata(place, self.superblock.used)
        row = data[number % each * size :][:size]
        if len(row) != size:
            raise ValueError("a table ends before what belongs there")
        return row

    def _owner(self, number: int) -> int:
        if number >= self.superblock.ids:
            raise ValueError(f"an owner of number {number}, more than there are")
        return int.from_bytes(self._row(self.superblock.id_table, number, 4), "little")

    # Inodes and directories

    def _read_inode(self, place: int) -> Inode:
        """Read an inode. place: of its block in the table, and in that block (16 bits)."""
        table = self.superblock.inode_table
        source = _Metadata(
            self, table, self.superblock.directory_table, place >> 16, place & 0xFFFF
        )
        parsed = read_inode.inode(source.take, self._owner, self.superblock.block)
        if not 0 < parsed.number <= self.superblock.inodes:
            raise ValueError(f"an inode of number {parsed.number}, more than there are")
        if self._places.get(parsed.number) not in (0, place + 1):
            raise ValueError(f"another inode has the number {parsed.number}, too")
        if not self._places.get(parsed.number):
            self._lists_left -= len(parsed.blocks)
            if self._lists_left < 0:
                raise ValueError("the lists of blocks are longer than an image of this size has")
        self._places.set(parsed.number, place + 1)
        return parsed

    def _read_names(self, inode: Inode) -> tuple[DirEntry, ...]:
        names: list[DirEntry] = []
        used = self.superblock.used
        source = _Metadata(self, self.superblock.directory_table, used, inode.start, inode.offset)
        rest, is_first = inode.size, inode.number not in self._listed_numbers
        while rest > 0:
            count, start, _ = _DIRECTORY_HEAD.unpack(source.take(_DIRECTORY_HEAD.size))
            rest -= _DIRECTORY_HEAD.size
            if count >= _ENTRIES_OF_A_HEAD:
                raise ValueError(f"{count} entries in a row")
            if is_first:
                self._names_left -= count + 1
                if self._names_left < 0:
                    raise ValueError("there are more names than its inodes can have")
            for _ in range(count + 1):
                offset, _, kind, size = _DIRECTORY_ENTRY.unpack(source.take(_DIRECTORY_ENTRY.size))
                if size > 255:
                    raise ValueError(f"a name of {size} bytes")
                name = source.take(size + 1)
                rest -= _DIRECTORY_ENTRY.size + size + 1
                names.append((name, start << 16 | offset, read_inode.kind_of(kind)))
        if rest:
            raise ValueError("its names do not end where its inode says")
        self._listed_numbers.add(inode.number)
        return check_names(names)

    # Data

    def _data_block(self, place: int, size: int) -> bytes:
        stored = size & ~_DATA_STORED
        if stored > self.superblock.block:
            raise ValueError(f"a block has {stored} bytes")
        data = self._read(place, stored)
        return data if size & _DATA_STORED else self._unpack(data, self.superblock.block)

    def _read_fragment(self, number: int) -> bytes:
        block = self.superblock
        if number >= block.fragments or not block.fragment_table:
            raise ValueError(f"a fragment of number {number}, more than there are")
        place, size, _ = struct.unpack("<QII", self._row(block.fragment_table, number, 16))
        self._budget.take(block.block)  # each time, since files may alternate between many
        return self._data_block(place, size)

    def _count(self, inode: Inode) -> None:
        """Bound what all files together hold, each counted once."""
        if inode.number not in self._counted:
            self._counted.add(inode.number)
            sizes = _BLOCK_SIZE.iter_unpack(inode.blocks)
            stored = sum(1 for (size,) in sizes if size & ~_DATA_STORED)
            tail = inode.size - len(inode.blocks) // _BLOCK_SIZE.size * self.superblock.block
            self._budget.take(stored * self.superblock.block + max(tail, 0))

    # Extended attributes

    def _attributes(self, number: int) -> Iterator[Attribute]:
        table = self.superblock.attribute_table
        values, count, _ = struct.unpack("<QII", self._read(table, 16))
        if number >= count or not SIZE <= values < table:
            raise ValueError(f"attributes of number {number}, more than there are")
        place, number_of, _ = struct.unpack("<QII", self._row(table + 16, number, 16))
        if number_of > _MOST_ATTRIBUTES:
            raise ValueError(f"{number_of} attributes")
        source = self._attribute_at(values, place)
        for _ in range(number_of):
            kind, size = struct.unpack("<HH", source.take(4))
            prefix = kind & ~_ELSEWHERE
            if prefix >= len(_PREFIXES) or size > 255:
                raise ValueError("an attribute of an unknown kind")
            name = _PREFIXES[prefix] + source.take(size)
            length = int.from_bytes(source.take(4), "little")
            if length > _LARGEST_VALUE:
                raise ValueError(f"an attribute of {length} bytes")
            value = source.take(length)
            if kind & _ELSEWHERE:
                other = self._attribute_at(values, int.from_bytes(value, "little"))
                length = int.from_bytes(other.take(4), "little")
                if length > _LARGEST_VALUE:
                    raise ValueError(f"an attribute of {length} bytes")
                value = other.take(length)
            self._budget.take(ATTRIBUTE + length)  # each time: inodes share attributes
            yield name, value

    def _attribute_at(self, values: int, place: int) -> _Metadata:
        return _Metadata(self, values, self.superblock.attribute_table, place >> 16, place & 0xFFFF)


def _inode(entry: Entry) -> Inode:
    """Return an entry's inode as this reader gave it."""
    assert isinstance(entry.inode, Inode)
    return entry.inode
