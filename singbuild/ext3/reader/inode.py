"""What an inode says, checked. The layout is in the kernel's "inodes" page of ext4."""

import struct
from typing import NamedTuple

from singbuild.file_tree import KINDS

_FIXED = struct.Struct("<HHI8xI4xHHII4x60s4xII8xHH4x")  # 128 bytes
_LATER = struct.Struct("<H6xI")  # of larger inodes: size of the fields in use, mtime's extra bits
_FOREIGN_FLAGS = {
    0x00000004: "compressed data",
    0x00000800: "encryption",
    0x00080000: "extents",
    0x00200000: "attributes in inodes",
    0x10000000: "inline data",
}
_ANY_FOREIGN = sum(_FOREIGN_FLAGS)


class Inode(NamedTuple):
    """One inode. A tuple, since an image holds many.

    mode: with its type bits. size: bytes. mtime: whole seconds since 1970;
    nanoseconds: what is beyond. sectors: of 512 bytes, in use.
    mapped: i_block, 60 bytes. attribute_block: the block with further attributes, 0 for none.
    attributes: the bytes behind the fields in use, where an inode's own attributes are.
    """

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    nanoseconds: int
    links: int
    sectors: int
    mapped: bytes
    attribute_block: int
    attributes: bytes

    @property
    def kind(self) -> str:
        """REGULAR, DIRECTORY, SYMLINK or the words for another type."""
        return KINDS[self.mode >> 12]

    @property
    def disk_bytes(self) -> int:
        """What its blocks take."""
        return self.sectors * 512

    @property
    def permissions(self) -> int:
        """The mode without its type."""
        return self.mode & 0o7777

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device node, (0, 0) for anything else."""
        if self.mode >> 12 not in (0o2, 0o6):
            return 0, 0
        old, new = struct.unpack_from("<II", self.mapped)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


def inode(number: int, data: bytes) -> Inode:
    """Return what an inode's bytes say. Raises ValueError for one that is free or not valid."""
    (mode, uid, size, mtime, gid, links, sectors, flags, mapped, attribute_block, high,
     uid_high, gid_high) = _FIXED.unpack_from(data)  # fmt: skip
    if mode >> 12 not in KINDS:
        raise ValueError(f"inode {number} has the unknown type {mode:#o}")
    if not links:
        raise ValueError(f"inode {number} is free, yet named")
    if flags & _ANY_FOREIGN:
        raise ValueError(f"inode {number} uses {_foreign(flags)}, which ext3 does not have")
    if mode >> 12 == 0o10:
        size |= high << 32
    used, beyond = _LATER.unpack_from(data, 128) if len(data) > 128 else (0, 0)
    if used > len(data) - 128 or used & 3:
        raise ValueError(f"inode {number} declares {128 + used} bytes in use, more than it has")
    if used < 12:
        beyond = 0  # the field lies in what is not used
    seconds = mtime - ((mtime & 1 << 31) << 1) + ((beyond & 3) << 32)
    return Inode(
        number, mode, uid | uid_high << 16, gid | gid_high << 16, size, seconds, beyond >> 2,
        links, sectors, mapped, attribute_block, data[128 + used :],
    )  # fmt: skip


def _foreign(flags: int) -> str:
    return ", ".join(name for flag, name in _FOREIGN_FLAGS.items() if flags & flag)
