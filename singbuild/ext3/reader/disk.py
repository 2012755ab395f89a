"""The file that holds an ext3 file system, read at offsets that are checked first.

Nothing here mounts, writes, or trusts a number that it read. Whatever is
wrong with the file is a DamagedImage that says where and what.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from singbuild.errors import ImageError
from singbuild.ext3 import holes
from singbuild.ext3.boot import BOOT_BLOCK, LAUNCH_LINE
from singbuild.ext3.reader import inode as read_inode
from singbuild.ext3.reader import superblock
from singbuild.ext3.reader.inode import Inode
from singbuild.ext3.reader.superblock import DESCRIPTOR, SUPERBLOCK, Superblock
from singbuild.file_tree import DamagedImage, opened

HEADER_2X = b"#!/usr/bin/env run-singularity"
HEADER_2X_SIZE = 31
_TABLE_PIECE = 64  # inodes read at a time
_TABLES_IN_MEMORY = 2 << 20  # bytes of inode tables held in memory, if more than one piece
_REMEDY = "Give an ext3 image; of one of another kind make it first: singbuild convert A B.img"
CHECK = "; e2fsck -fn tells what else is wrong"


class Disk:
    """An open image.

    path: the file. offset: where the file system begins in it, in bytes; given for one in a
    container, else told by the header. size: of the file. boot: the first 1,024 bytes. short:
    accept a file that ends too early; reading what is missing is then the error.
    """

    def __init__(self, path: Path, *, short: bool = False, offset: int = 0) -> None:
        self.path = path
        self._fd = _opened(path)
        try:
            self.size = os.fstat(self._fd).st_size
            self.boot = os.pread(self._fd, BOOT_BLOCK, offset)
            old = not offset and self.boot.startswith(HEADER_2X)
            self.offset = HEADER_2X_SIZE if old else offset
            self.superblock = self._superblock()
            if not short:
                self._check_whole()
        except BaseException:
            os.close(self._fd)
            raise
        pieces = _TABLES_IN_MEMORY // (_TABLE_PIECE * self.superblock.inode_size)
        self._table_piece = lru_cache(pieces or 1)(self._read_table_piece)
        self._table = lru_cache(1024)(self._read_descriptor)

    @property
    def status(self) -> os.stat_result:
        """What fstat(2) says of the open file."""
        return os.fstat(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def block(self, number: int, count: int = 1) -> bytes:
        """Return whole blocks. Raises ValueError when they lie outside the file system or file."""
        if not self.superblock.first_block < number <= self.superblock.blocks - count:
            raise ValueError(f"block {number} lies outside the file system")
        return self._read(number * self.superblock.block, count * self.superblock.block)

    def inode(self, number: int) -> Inode:
        """Return an inode. Raises ValueError for one that cannot be."""
        if not 1 <= number <= self.superblock.inodes:
            raise ValueError(f"there is no inode {number}")
        group, index = divmod(number - 1, self.superblock.group_inodes)
        piece = self._table_piece(group, index // _TABLE_PIECE)
        size = self.superblock.inode_size
        at = index % _TABLE_PIECE * size
        return read_inode.inode(number, piece[at : at + size])

    def raw(self, offset: int, size: int) -> bytes:
        """Return bytes of the file as they are; fewer at its end."""
        return os.pread(self._fd, size, offset)

    def stored_parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield where the host stores something of a part of the file: ``holes.stored_parts``."""
        return holes.stored_parts(self._fd, end, start)

    def damaged(self, where: str, reason: object) -> DamagedImage:
        """Make the error that names this image."""
        return DamagedImage(self.path, where, str(reason), CHECK)

    def _read(self, offset: int, size: int) -> bytes:
        """Read exactly; offset: from the file system's start."""
        try:
            data = os.pread(self._fd, size, self.offset + offset)
        except OSError as error:
            raise ValueError(
                f"byte {self.offset + offset} cannot be read: {error.strerror}"
            ) from error
        if len(data) != size:
            raise ValueError(f"the file ends at byte {self.size}, before what belongs here")
        return data

    def _superblock(self) -> Superblock:
        data = os.pread(self._fd, SUPERBLOCK, self.offset + SUPERBLOCK)
        if self.boot.startswith(LAUNCH_LINE) and data[0x38:0x3A] != superblock.MAGIC:
            raise self.damaged("the superblock", "there is none, though the launch line is ours")
        if data[0x38:0x3A] != superblock.MAGIC:
            why = f"There is no ext3 superblock at offset {self.offset + SUPERBLOCK}."
            raise ImageError(f"{self.path} is not an image", why=why, remedy=_REMEDY)
        try:
            return superblock.superblock(data)
        except ValueError as error:
            raise self.damaged("the superblock", error) from error

    def _check_whole(self) -> None:
        if self.size - self.offset < self.superblock.size:
            raise ImageError(
                f"the image {self.path} is truncated",
                why=f"its file system has {self.superblock.size} bytes, "
                f"the file only {self.size - self.offset}",
                remedy="Copy or build it again.",
            )

    def _read_descriptor(self, group: int) -> int:
        """Return the first block of a group's inode table."""
        block = superblock.inode_table(self._read(self.superblock.descriptor_at(group), DESCRIPTOR))
        if not self.superblock.first_block < block < self.superblock.blocks:
            raise ValueError(f"group {group} has its inode table outside the file system")
        return block

    def _read_table_piece(self, group: int, piece: int) -> bytes:
        count = min(_TABLE_PIECE, self.superblock.group_inodes - piece * _TABLE_PIECE)
        start = self._table(group) * self.superblock.block
        size = self.superblock.inode_size
        return self._read(start + piece * _TABLE_PIECE * size, count * size)


def _opened(path: Path) -> int:
    fd = opened(path)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{path} is not an image", why="it is no regular file", remedy=_REMEDY)
    return fd
