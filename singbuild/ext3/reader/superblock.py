"""What a superblock and a group descriptor say, checked; for ext2 and ext3 of any block size.

Everything is hostile until checked: fields that are not valid raise ValueError.
The layout is in the kernel's Documentation/filesystems/ext4, pages "super" and
"group_descr".
"""

import struct
from dataclasses import dataclass

SUPERBLOCK = 1024  # both its offset and its size, in bytes
DESCRIPTOR = 32
MAGIC = b"\x53\xef"
_MAX_LOG_BLOCK = 6  # 64 KiB, the largest that ext2fs knows

_SPARSE_SUPER = 0x0001  # ro_compat; other ones, by their definition, hinder no reader
_FILETYPE, _RECOVER, _META_BG = 0x0002, 0x0004, 0x0010
_FOREIGN = {
    0x0001: "compression",
    0x0008: "journal_dev",
    0x0040: "extents",
    0x0080: "64bit",
    0x0100: "mmp",
    0x0200: "flex_bg",
    0x0400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}


@dataclass(frozen=True, slots=True)
class Superblock:
    """The shape of a file system and what it says of its past.

    block: bytes. blocks, inodes: how many there are. first_block: 1 with blocks of
    1 KiB, else 0. meta_from: the first descriptor block that stands in its own groups
    (meta_bg). dirty: the journal holds changes that were never written to their place.
    created, wtime (last written), mounted: seconds since 1970, 0 for never. mounts: how
    often it was mounted for writing since the last check.
    """

    block: int
    blocks: int
    inodes: int
    first_block: int
    group_blocks: int
    group_inodes: int
    inode_size: int
    first_inode: int
    meta_from: int
    sparse: bool
    filetype: bool
    dirty: bool
    free_blocks: int
    uuid: bytes
    hash_seed: bytes
    created: int
    wtime: int
    mounted: int
    mounts: int

    @property
    def groups(self) -> int:
        """How many block groups there are."""
        return -(-(self.blocks - self.first_block) // self.group_blocks)

    @property
    def size(self) -> int:
        """Bytes of the file system."""
        return self.blocks * self.block

    def descriptor_at(self, group: int) -> int:
        """Return the offset of a group's descriptor, in bytes from the file system's start."""
        block, index = divmod(group, self.block // DESCRIPTOR)
        at = self.first_block + 1 + block
        if block >= self.meta_from:
            first = block * (self.block // DESCRIPTOR)
            at = self.first_block + first * self.group_blocks + self._has_backup(first)
        return at * self.block + index * DESCRIPTOR

    def _has_backup(self, group: int) -> bool:
        return not self.sparse or group < 2 or any(_is_power(group, base) for base in (3, 5, 7))


def superblock(data: bytes) -> Superblock:
    """Return what 1,024 bytes say. Raises ValueError for what is no readable ext2 or ext3."""
    if len(data) < SUPERBLOCK or data[0x38:0x3A] != MAGIC:
        raise ValueError("there is no ext3 superblock")
    inodes, blocks = struct.unpack_from("<II", data, 0)
    (free_blocks,) = struct.unpack_from("<I", data, 0x0C)
    first_block, log_block = struct.unpack_from("<II", data, 0x14)
    group_blocks, _, group_inodes, mounted, wtime = struct.unpack_from("<IIIII", data, 0x20)
    (mounts,) = struct.unpack_from("<H", data, 0x34)
    (revision,) = struct.unpack_from("<I", data, 0x4C)
    first_inode, inode_size = struct.unpack_from("<IH", data, 0x54) if revision else (11, 128)
    _, incompat, ro_compat = struct.unpack_from("<III", data, 0x5C) if revision else (0, 0, 0)
    (meta_from,) = struct.unpack_from("<I", data, 0x104)
    (created,) = struct.unpack_from("<I", data, 0x108)
    _check_features(incompat)
    if log_block > _MAX_LOG_BLOCK:
        raise ValueError(f"the superblock gives blocks of 2^{log_block + 10} bytes")
    parsed = Superblock(
        block=1024 << log_block,
        blocks=blocks,
        inodes=inodes,
        first_block=first_block,
        group_blocks=group_blocks,
        group_inodes=group_inodes,
        inode_size=inode_size,
        first_inode=first_inode,
        meta_from=meta_from if incompat & _META_BG else 1 << 32,
        sparse=bool(ro_compat & _SPARSE_SUPER),
        filetype=bool(incompat & _FILETYPE),
        dirty=bool(incompat & _RECOVER),
        free_blocks=free_blocks,
        uuid=data[0x68:0x78],
        hash_seed=data[0xEC:0xFC],
        # s_mkfs_time_hi, s_wtime_hi, s_mtime_hi: the fifth byte, from 2106 on.
        created=created | data[0x276] << 32,
        wtime=wtime | data[0x274] << 32,
        mounted=mounted | data[0x275] << 32,
        mounts=mounts,
    )
    _check_shape(parsed)
    return parsed


def inode_table(descriptor: bytes) -> int:
    """Return the block at which a group's inode table begins."""
    (block,) = struct.unpack_from("<I", descriptor, 8)
    return int(block)


def _check_features(incompat: int) -> None:
    features = _FILETYPE | _RECOVER | _META_BG
    foreign = [
        _FOREIGN.get(1 << n, f"{1 << n:#x}")
        for n in range(32)
        if incompat >> n & 1 and not features >> n & 1
    ]
    if foreign:
        raise ValueError(f"it is no ext3: its superblock names {', '.join(foreign)}")


def _check_shape(block: Superblock) -> None:
    """Refuse counts that contradict each other; then no later arithmetic can go astray."""
    bits = 8 * block.block
    sound = (
        block.first_block == (block.block == 1024)
        and 0 < block.group_blocks <= bits
        and 0 < block.group_inodes <= bits
        and block.blocks > block.first_block + 1
        and 128 <= block.inode_size <= block.block
        and not block.inode_size & (block.inode_size - 1)
        and block.inodes == block.groups * block.group_inodes
        and block.free_blocks < block.blocks
    )
    if not sound:
        raise ValueError("the superblock's counts contradict each other")


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
