"""The tables, which can be written only when the place of all content is known.

Bitmaps, group descriptors, superblocks with their backups, and the launch
line. Until the first superblock is written the file is no file system.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from singbuild.ext3 import records
from singbuild.ext3.boot import boot_block
from singbuild.ext3.geometry import BLOCK, GROUP_BLOCKS, Geometry
from singbuild.ext3.writer.target import Target


@dataclass(frozen=True)
class Summary:
    """What bitmaps, descriptors and superblocks record of the file system.

    blocks: of the file system; content is before block ``next``. inodes: 1 to this one are in
    use. directories: their inode numbers. journal_map: the journal's i_block.
    """

    blocks: int
    next: int
    inodes: int
    directories: Iterable[int]
    epoch: int
    digest: bytes
    uuid: UUID
    hash_seed: bytes
    journal_map: bytes


def write_tables(file: Target, geometry: Geometry, summary: Summary) -> None:
    """Make the file a file system, and the file system executable."""
    file.truncate(summary.blocks * BLOCK)
    free = [_write_bitmaps(file, geometry, summary, group) for group in range(geometry.groups)]
    inodes = geometry.groups * geometry.inodes_per_group
    totals = records.Totals(
        summary.blocks,
        sum(free),
        inodes - summary.inodes,
        summary.epoch,
        summary.uuid.bytes,
        summary.hash_seed,
        summary.journal_map,
    )
    per_group = geometry.inodes_per_group
    counted = Counter((number - 1) // per_group for number in summary.directories)
    directories = [counted[group] for group in range(geometry.groups)]
    packed = records.descriptors(geometry, free, summary.inodes, directories)
    # Group 0 last: without its superblock the file is no file system to any reader.
    for group in (*geometry.backups, 0):
        start = group * GROUP_BLOCKS * BLOCK
        file.write(packed, start + BLOCK)
        file.write(records.superblock(geometry, totals, group), start + (0 if group else 1024))
    # Block 0 holds nothing of ext3 before byte 1024, so the launch line and the digest fit there.
    file.write(boot_block(summary.digest), 0)


def _write_bitmaps(file: Target, geometry: Geometry, summary: Summary, group: int) -> int:
    """Write both bitmaps of a group; return how many of its blocks are free."""
    start = group * GROUP_BLOCKS
    size = min(GROUP_BLOCKS, summary.blocks - start)
    full = min(max(summary.next, geometry.content_start(group)) - start, size)
    blocks = records.bitmap(full, size)
    inodes = records.bitmap(
        records.inodes_used_in(geometry, group, summary.inodes), geometry.inodes_per_group
    )
    file.write(blocks + inodes, geometry.tables_start(group) * BLOCK)
    return size - full
