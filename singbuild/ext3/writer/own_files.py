"""The file system's own files: journal, blocks reserved for growth, lost+found.

Each function writes the blocks of one into the volume and returns its inode, 256 bytes.
"""

from singbuild.ext3 import records
from singbuild.ext3.geometry import BLOCK, LOST_INODE, POINTERS, ROOT_INODE, Geometry
from singbuild.ext3.writer.blockmap import DIRECT, map_runs, put_blocks
from singbuild.ext3.writer.directory import lost_and_found
from singbuild.ext3.writer.volume import Volume


def resize_inode(volume: Volume, geometry: Geometry, epoch: int) -> bytes:
    """Map descriptor blocks kept free as indirect blocks: how ext3 grows while mounted."""
    block = volume.allocate_one()
    volume.put(block, records.resize_pointers(geometry))
    for reserved in geometry.reserved():
        volume.put(reserved, records.backup_pointers(geometry, reserved))
    blocks = 1 + geometry.reserved_blocks * (1 + len(geometry.backups))
    # As large as a double indirect block can make a file: mke2fs gives it this size, too.
    size = (DIRECT + POINTERS + POINTERS**2) * BLOCK
    i_block = records.pack_pointers([0] * (DIRECT + 1) + [block])[:60]
    return records.inode(0o100600, 0, 0, epoch, size, 1, blocks, i_block)


def journal_inode(volume: Volume, geometry: Geometry, epoch: int) -> tuple[bytes, bytes]:
    """Write an empty journal. Returns also its i_block, which the superblock repeats."""
    runs = volume.allocate(geometry.journal)
    volume.put(runs[0][0], records.journal_superblock(geometry.journal))
    i_block, blocks = map_runs(volume, runs)
    size = geometry.journal * BLOCK
    return records.inode(0o100600, 0, 0, epoch, size, 1, blocks, i_block), i_block


def lost_and_found_inode(volume: Volume, epoch: int) -> bytes:
    """Write the directory in which e2fsck puts what has no name."""
    content = lost_and_found(LOST_INODE, ROOT_INODE)
    i_block, blocks = put_blocks(volume, content)
    return records.inode(0o040700, 0, 0, epoch, len(content), 2, blocks, i_block)
