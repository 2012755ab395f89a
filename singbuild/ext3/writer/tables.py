"""What can be written only when everything lies in its place.

Bitmaps, group descriptors, superblocks with their backups, and the launch
line. Until the first superblock is written the file is no file system.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from singbuild.ext3 import records
from singbuild.ext3.boot import boot_block
from singbuild.ext3.geometry import BLOCK, GROUP_BLOCKS, Geometry
from singbuild.ext3.writer.target import TargetFile


@dataclass(frozen=True)
class Used:
    """What is in use: content before block ``next``, inodes 1 to ``inodes``.

    blocks: of the whole file system. directories: their inode numbers.
    """

    next: int
    blocks: int
    inodes: int
    directories: Iterable[int]


def write_tables(
    file: TargetFile,
    geometry: Geometry,
    used: Used,
    *,
    epoch: int,
    uuid: bytes,
    hash_seed: bytes,
    journal_map: bytes,
    digest: bytes,
) -> None:
    """Make the file a file system, and the file system executable."""
    file.truncate(used.blocks * BLOCK)
    free = [_write_bitmaps(file, geometry, used, group) for group in range(geometry.groups)]
    inodes = geometry.groups * geometry.inodes_per_group
    totals = records.Totals(
        used.blocks, sum(free), inodes - used.inodes, epoch, uuid, hash_seed, journal_map
    )
    per_group = geometry.inodes_per_group
    counted = Counter((number - 1) // per_group for number in used.directories)
    directories = [counted[group] for group in range(geometry.groups)]
    packed = records.descriptors(geometry, free, used.inodes, directories)
    for group in (*geometry.backups, 0):
        start = group * GROUP_BLOCKS * BLOCK
        file.write(packed, start + BLOCK)
        file.write(records.superblock(geometry, totals, group), start + (0 if group else 1024))
    file.write(boot_block(digest), 0)


def _write_bitmaps(file: TargetFile, geometry: Geometry, used: Used, group: int) -> int:
    """Both bitmaps of one group; how many of its blocks are free."""
    start = group * GROUP_BLOCKS
    size = min(GROUP_BLOCKS, used.blocks - start)
    full = min(max(used.next, geometry.content_start(group)) - start, size)
    blocks = records.bitmap(full, size)
    inodes = records.bitmap(
        records.inodes_used_in(geometry, group, used.inodes), geometry.inodes_per_group
    )
    file.write(blocks + inodes, geometry.tables_start(group) * BLOCK)
    return size - full
