"""Superblock, group descriptors, inodes and journal, as bytes.

Every field that could vary between two hosts is an argument or a constant.
The layout of each record is in the kernel's Documentation/filesystems/ext4,
pages "super", "group_descr", "inodes" and "journal".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from singbuild.ext3.geometry import (
    BLOCK,
    GROUP_BLOCKS,
    INODE,
    JOURNAL_INODE,
    LOST_INODE,
    POINTERS,
    Geometry,
)

_MAGIC = 0xEF53
_JOURNAL_MAGIC = 0xC03B3998
MIN_TIME = -(2**31)  # 1901-12-13
MAX_TIME = 2**31 - 1 + 3 * 2**32  # 2446-05-10: two epoch bits above 32

_COMPAT = 0x0004 | 0x0008 | 0x0010 | 0x0020  # has_journal ext_attr resize_inode dir_index
_INCOMPAT = 0x0002  # filetype
_RO_COMPAT = 0x0001 | 0x0002  # sparse_super large_file

INDEXED = 0x1000  # i_flags of a hashed directory
HASH_HALF_MD4 = 1
_HASH_UNSIGNED = 0x0002  # s_flags: names are hashed as unsigned bytes on every architecture
_ACL_AND_USER_XATTR = 0x000C  # s_default_mount_opts

_EXTRA_SIZE = 32  # bytes of an inode beyond 128 that fields use; attributes follow
ATTRIBUTE_ROOM = INODE - 128 - _EXTRA_SIZE

_INODE = struct.Struct("<HHIIII4xHHII4x60s4xII8xHH4xH2xIIIII8x96s")
_DESCRIPTOR = struct.Struct("<IIIHHHH12x")


@dataclass(frozen=True, slots=True)
class Totals:
    """What the superblock counts, and what identifies the image."""

    blocks: int
    free_blocks: int
    free_inodes: int
    epoch: int
    uuid: bytes
    hash_seed: bytes
    journal_map: bytes


def inode(
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    size: int,
    links: int,
    blocks: int,
    mapped: bytes,
    flags: int = 0,
    attribute_block: int = 0,
    attributes: bytes = b"",
) -> bytes:
    """256 bytes. All four times are ``mtime``, in seconds since 1970.

    blocks: 4 KiB blocks in use, indirect and attribute blocks included.
    mapped: i_block, 60 bytes: block map, short symbolic link or device number.
    attributes: what the inode itself holds of them, at most ATTRIBUTE_ROOM.
    """
    low = mtime & 0xFFFFFFFF
    # The low 32 bits are signed; two bits say how many times 2^32 to add.
    extra = (mtime + 2**31) >> 32
    return _INODE.pack(
        mode, uid & 0xFFFF, size & 0xFFFFFFFF, low, low, low, gid & 0xFFFF, links,
        blocks * (BLOCK // 512), flags, mapped, attribute_block, size >> 32,
        uid >> 16, gid >> 16, _EXTRA_SIZE, extra, extra, extra, low, extra, attributes,
    )  # fmt: skip


def device_map(device_major: int, device_minor: int) -> bytes:
    """i_block of a device node: the old 16-bit number where it fits, else the new one."""
    if device_major < 256 and device_minor < 256:
        return struct.pack("<I56x", device_major << 8 | device_minor)
    number = (device_minor & 0xFF) | device_major << 8 | (device_minor & ~0xFF) << 12
    return struct.pack("<II52x", 0, number)


def superblock(geometry: Geometry, totals: Totals, group: int) -> bytes:
    """1,024 bytes: the superblock as group ``group`` repeats it."""
    seconds, beyond = totals.epoch & 0xFFFFFFFF, totals.epoch >> 32
    journal_size = geometry.journal * BLOCK
    block = bytearray(1024)
    for offset, form, *values in (
        (0x000, "<II", geometry.groups * geometry.inodes_per_group, totals.blocks),
        (0x00C, "<II", totals.free_blocks, totals.free_inodes),
        (0x018, "<II", 2, 2),  # blocks, and clusters, of 1024 << 2 bytes
        (0x020, "<III", GROUP_BLOCKS, GROUP_BLOCKS, geometry.inodes_per_group),
        (0x030, "<I", seconds),  # last written
        (0x036, "<HHHH", 0xFFFF, _MAGIC, 1, 1),  # no check by mount count; clean; errors=continue
        (0x040, "<I", seconds),  # last checked
        (0x04C, "<I", 1),  # revision with the fields that follow
        # 16 bits: of a group from 65,536 on, which lies behind 8 TiB, e2fsprogs cuts it, too.
        (0x054, "<IHH", LOST_INODE, INODE, group & 0xFFFF),
        (0x05C, "<III16s", _COMPAT, _INCOMPAT, _RO_COMPAT, totals.uuid),
        (0x0CE, "<H", geometry.reserved_blocks),
        (0x0E0, "<I", JOURNAL_INODE),
        (0x0EC, "<16sBB", totals.hash_seed, HASH_HALF_MD4, 1),  # 1: journal map kept here
        (0x100, "<I", _ACL_AND_USER_XATTR),
        (0x108, "<I60sII", seconds, totals.journal_map, journal_size >> 32, journal_size),
        (0x15C, "<HHI", _EXTRA_SIZE, _EXTRA_SIZE, _HASH_UNSIGNED),
        (0x274, "<BBBB", beyond, 0, beyond, beyond),  # the times' high bits
    ):
        struct.pack_into(form, block, offset, *values)
    return bytes(block)


def descriptors(geometry: Geometry, free_blocks: Sequence[int], used_inodes: int,
                directories: Sequence[int]) -> bytes:  # fmt: skip
    """All group descriptors, padded to whole blocks.

    free_blocks, directories: by group. Inodes 1 to ``used_inodes`` are in use.
    """
    packed = b"".join(
        _DESCRIPTOR.pack(
            bitmap := geometry.tables_start(group),
            bitmap + 1,
            bitmap + 2,
            free_blocks[group],
            geometry.inodes_per_group - inodes_used_in(geometry, group, used_inodes),
            directories[group],
            0,
        )
        for group in range(geometry.groups)
    )
    return packed.ljust(geometry.descriptor_blocks * BLOCK, b"\0")


def inodes_used_in(geometry: Geometry, group: int, used_inodes: int) -> int:
    """How many of a group's inodes are in use when 1 to ``used_inodes`` are."""
    first = group * geometry.inodes_per_group
    return min(max(used_inodes - first, 0), geometry.inodes_per_group)


def bitmap(used: int, size: int) -> bytes:
    """One block of bits: the first ``used`` are set, and all from ``size`` on."""
    bits = (1 << used) - 1 | ((1 << 8 * BLOCK) - 1) >> size << size
    return bits.to_bytes(BLOCK, "little")


def journal_superblock(blocks: int) -> bytes:
    """Make the first block of an empty journal (JBD2 superblock version 2, big-endian)."""
    fields = (_JOURNAL_MAGIC, 4, 0, BLOCK, blocks, 1, 1, 0, 0)  # 4: superblock, version 2
    return struct.pack(">9I28xI", *fields, 1).ljust(BLOCK, b"\0")


def resize_pointers(geometry: Geometry) -> bytes:
    """Inode 7's double indirect block: the descriptor blocks kept free in group 0."""
    pointers = [0] * POINTERS
    for block in geometry.reserved():
        pointers[(block - 1) % POINTERS] = block
    return pack_pointers(pointers)


def backup_pointers(geometry: Geometry, block: int) -> bytes:
    """Make the content of one such block: where the groups with backups keep theirs."""
    return pack_pointers([group * GROUP_BLOCKS + block for group in geometry.backups])


def pack_pointers(blocks: Sequence[int]) -> bytes:
    """Block numbers as an indirect block holds them."""
    return struct.pack(f"<{len(blocks)}I", *blocks).ljust(BLOCK, b"\0")
