"""Where things lie: block groups, their tables, and the room left for content.

A group is 32,768 blocks of 4 KiB. Each begins with its own tables: in some a
superblock, the group descriptors and descriptor blocks kept free so that the
file system can grow; in all a block bitmap, an inode bitmap and an inode
table. Whatever follows is room for content, filled from the first block on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count

# The largest that every kernel mounts: a block may not be larger than a page.
BLOCK = 4096
# An inode of 128 bytes has no room for dates after 2038, nor for attributes.
INODE = 256
GROUP_BLOCKS = 8 * BLOCK  # what one bitmap block can describe
DESCRIPTORS_PER_BLOCK = BLOCK // 32
POINTERS = BLOCK // 4  # block numbers in an indirect block
FAST_LINK = 60  # bytes: shorter targets of symbolic links live in the inode

# Linux, Documentation/filesystems/ext4/special_inodes.rst.
ROOT_INODE, RESIZE_INODE, JOURNAL_INODE, LOST_INODE = 2, 7, 8, 11
FIRST_INODE = 12  # the first that the tree's own files get

MAX_LINKS = 32000  # EXT2_LINK_MAX
MAX_BLOCKS = 2**32 - 1
# i_blocks counts 512-byte units in 32 bits, indirect blocks included: the
# kernel's ext4_max_bitmap_size() for 4 KiB blocks without huge_file.
_INDIRECT = 1 + (1 + POINTERS) + (1 + POINTERS + POINTERS**2)
MAX_FILE_BYTES = ((2**32 - 1) // 8 - _INDIRECT) * BLOCK

_GROWTH = 1024  # resize_inode leaves room to grow this many times, as mke2fs does
_BLOCKS_PER_SPARE_INODE = 4  # mke2fs's default: an inode for 16 KiB


@dataclass(frozen=True)
class Geometry:
    """The shape of a file system; what lies where follows from these three.

    groups: block groups. inodes_per_group: a multiple of 16, the inodes in a
    block. journal: blocks of journal.
    """

    groups: int
    inodes_per_group: int
    journal: int

    @property
    def table_blocks(self) -> int:
        """Blocks of one group's inode table."""
        return self.inodes_per_group * INODE // BLOCK

    @cached_property
    def descriptor_blocks(self) -> int:
        """Blocks of group descriptors."""
        return -(-self.groups // DESCRIPTORS_PER_BLOCK)

    @cached_property
    def reserved_blocks(self) -> int:
        """Descriptor blocks kept free for growth."""
        most = min(self.groups * _GROWTH, -(-MAX_BLOCKS // GROUP_BLOCKS))
        return min(-(-most // DESCRIPTORS_PER_BLOCK) - self.descriptor_blocks, POINTERS)

    @cached_property
    def backups(self) -> list[int]:
        """Groups other than 0 that repeat superblock and descriptors (sparse_super)."""
        powers = {base**n for base in (3, 5, 7) for n in range(18)}
        return sorted(group for group in powers if group < self.groups)

    def reserved(self) -> range:
        """Group 0's descriptor blocks kept free."""
        first = 1 + self.descriptor_blocks
        return range(first, first + self.reserved_blocks)

    def tables_start(self, group: int) -> int:
        """Find a group's block bitmap; the inode bitmap and table follow it."""
        start = group * GROUP_BLOCKS
        if group == 0 or group in self.backups:
            start += 1 + self.descriptor_blocks + self.reserved_blocks
        return start

    def content_start(self, group: int) -> int:
        """Find the first block of a group that is room for content."""
        return self.tables_start(group) + 2 + self.table_blocks

    def room(self) -> int:
        """Blocks for content in all groups, the last taken as whole."""
        repeated = (1 + len(self.backups)) * (1 + self.descriptor_blocks + self.reserved_blocks)
        return self.groups * (GROUP_BLOCKS - 2 - self.table_blocks) - repeated

    def block_after(self, blocks: int, skip: int) -> int:
        """Find the block that follows ``skip`` blocks of content, counted from ``blocks``."""
        for group in count(blocks // GROUP_BLOCKS):
            first = max(blocks, self.content_start(group))
            space = (group + 1) * GROUP_BLOCKS - first
            if skip <= space:
                return first + skip
            skip -= space
        raise AssertionError  # count() does not end


def journal_blocks(content: int) -> int:
    """Choose a journal of 4 MiB, the smallest there is, or of 16 MiB from 1 GiB on.

    Images are mostly read; ``--writable`` use fits into these.
    """
    return 1024 if content < 262144 else 4096


def indirect_blocks(blocks: int) -> int:
    """Indirect blocks of a file of that many blocks without holes."""
    outside, total = blocks - 12, 0
    if outside > 0:
        total += -(-outside // POINTERS)
    if outside > POINTERS:
        total += -(-(outside - POINTERS) // POINTERS**2)
    if outside > POINTERS + POINTERS**2:
        total += 1
    return total


def spare_inodes(free: int) -> int:
    """Inodes to add for that many blocks of free space."""
    return free // _BLOCKS_PER_SPARE_INODE


def smallest_geometry(content: int, free: int, inodes: int) -> Geometry | None:
    """Find the smallest geometry with room for so much; None beyond 16 TiB.

    content: blocks of files, directories, attributes and indirect blocks, the
    journal left out. free: blocks to leave free. inodes: all, reserved ones
    included.
    """
    journal = journal_blocks(content + free)
    total = content + free + journal + indirect_blocks(journal)
    inodes += spare_inodes(free)
    for geometry in _growing(max(total, 1), inodes, journal):
        if geometry.groups * GROUP_BLOCKS > MAX_BLOCKS + 1:
            return None
        if geometry.inodes_per_group <= GROUP_BLOCKS and geometry.room() >= total:
            return geometry
    raise AssertionError  # the groups grow until one of the two holds


def geometry_of_size(blocks: int, inodes: int) -> Geometry:
    """Return the geometry of a file system of so many blocks, with an inode for each four.

    inodes: in use, reserved ones included. A last group too small for its own tables
    is left out, as mke2fs does.
    """
    groups = -(-blocks // GROUP_BLOCKS)
    while True:
        per_group = -(-max(inodes, spare_inodes(blocks)) // groups)
        geometry = Geometry(groups, -(-per_group // 16) * 16, journal_blocks(blocks))
        if groups == 1 or geometry.content_start(groups - 1) < blocks:
            return geometry
        groups -= 1


def _growing(blocks: int, inodes: int, journal: int) -> Iterator[Geometry]:
    for groups in count(-(-blocks // GROUP_BLOCKS)):
        per_group = -(-inodes // groups)
        yield Geometry(groups, -(-per_group // 16) * 16, journal)
