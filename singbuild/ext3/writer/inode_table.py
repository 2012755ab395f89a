"""The inode tables of all groups, filled from inode 1 on."""

from singbuild.ext3.geometry import BLOCK, INODE, Geometry
from singbuild.ext3.writer.volume import Volume

_PER_BLOCK = BLOCK // INODE


class InodeTable:
    """Takes packed inodes in the order of their numbers, and writes whole blocks of them."""

    def __init__(self, volume: Volume, geometry: Geometry) -> None:
        self._volume, self._geometry = volume, geometry
        self._count = 0
        self._waiting: list[bytes] = []

    def add(self, inodes: list[bytes]) -> None:
        """Take the next inodes, and write those that fill blocks."""
        self._waiting += inodes
        self._write(len(self._waiting) // _PER_BLOCK * _PER_BLOCK)

    def close(self) -> None:
        """Write the rest."""
        self._write(len(self._waiting))

    def _write(self, count: int) -> None:
        while count:
            group, index = divmod(self._count, self._geometry.inodes_per_group)
            some = min(count, self._geometry.inodes_per_group - index)
            data = b"".join(self._waiting[:some])
            block = self._geometry.tables_start(group) + 2 + index // _PER_BLOCK
            self._volume.put(block, data.ljust(-(-some // _PER_BLOCK) * BLOCK, b"\0"))
            del self._waiting[:some]
            self._count += some
            count -= some
