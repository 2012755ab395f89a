"""What a superblock says, checked; and how blocks are packed. Everything is hostile until checked.

Layout: Linux, fs/squashfs/squashfs_fs.h, struct squashfs_super_block.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from singbuild.compression import zstd

MAGIC = b"hsqs"
SIZE = 96  # bytes
_FIELDS = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_NAMES = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_ABSENT = (1 << 64) - 1
_MEMORY = 256 << 20  # bytes that one block may take to unpack: xz asks for its dictionary


@dataclass(frozen=True, slots=True)
class Superblock:
    """The shape of a file system. block: bytes; used: bytes of all; created: seconds since 1970.

    Tables: offsets from its start, 0 for one that is absent, where Linux shows no attributes;
    root: where the root's inode is.
    """

    inodes: int
    created: int
    block: int
    fragments: int
    compression: str
    ids: int
    root: int
    used: int
    id_table: int
    attribute_table: int
    inode_table: int
    directory_table: int
    fragment_table: int


def superblock(data: bytes, room: int) -> Superblock:
    """Return what the bytes of a superblock say. room: bytes of the file from there on.

    Raises ValueError for fields that are not valid.
    """
    if len(data) < SIZE or data[:4] != MAGIC:
        raise ValueError("there is none")
    (_, inodes, created, block, fragments, compression, log, _flags, ids, major, minor, root, used,
     id_table, attribute_table, inode_table, directory_table, fragment_table, _export
     ) = _FIELDS.unpack(data[:SIZE])  # fmt: skip
    if (major, minor) != (4, 0):
        raise ValueError(f"it is of version {major}.{minor}; only 4.0 is known")
    if compression not in _NAMES:
        raise ValueError(f"it uses the unknown compression {compression}")
    if not 12 <= log <= 20 or block != 1 << log:
        raise ValueError(f"its blocks have {block} bytes")
    if not SIZE < used <= room:
        raise ValueError(f"the file system has {used} bytes, the file only {room}")
    for table in (inode_table, directory_table, id_table):
        if not SIZE <= table < used:
            raise ValueError("a table lies outside the file system")
    if not inode_table < directory_table or not ids or not inodes:
        raise ValueError("its tables are out of order")
    optional = [
        0 if table == _ABSENT else table if SIZE <= table < used else None
        for table in (attribute_table, fragment_table)
    ]
    if None in optional:
        raise ValueError("a table lies outside the file system")
    return Superblock(
        inodes, created, block, fragments, _NAMES[compression], ids, root, used, id_table,
        optional[0] or 0, inode_table, directory_table, optional[1] or 0,
    )  # fmt: skip


def unpacker(compression: str) -> Callable[[bytes, int], bytes]:
    """Return the function that unpacks a block. It takes bytes, and the most that they may hold.

    It raises ValueError for bytes that do not unpack, or that hold more. Raises ValueError for a
    compression that no library here knows.
    """
    if compression not in _UNPACKERS:
        raise ValueError(
            f"it is packed with {compression}, which only the kernel and squashfuse read"
        )
    begin = _UNPACKERS[compression]

    def unpacked(data: bytes, most: int) -> bytes:
        try:
            content = begin(data, most + 1)
        except (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError, MemoryError) as error:
            raise ValueError(f"a block does not unpack: {error}") from error
        if len(content) > most:
            raise ValueError(f"a block holds over {most} bytes")
        return content

    return unpacked


def _xz(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=_MEMORY).decompress(data, most)


_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": lambda data, most: zlib.decompressobj().decompress(data, most),
    "lzma": _xz,
    "xz": _xz,
    "zstd": lambda data, most: zstd.ZstdDecompressor().decompress(data, most),
}
