"""Which blocks hold a file: twelve direct numbers, then one to three levels of indirect blocks."""

import errno
import os
import struct
from collections.abc import Iterable

from singbuild.ext3.geometry import BLOCK, POINTERS
from singbuild.ext3.records import pack_pointers
from singbuild.ext3.writer.volume import Run, Volume

DIRECT, _LEVELS = 12, 3
_SLOTS = struct.Struct("<15I")
_RUNS = [struct.Struct(f"<{count}I{60 - 4 * count}x") for count in range(DIRECT + 1)]


class BlockMap:
    """A map that is filled in ascending order, so that one block per level is held in memory.

    volume: where the indirect blocks go.
    """

    def __init__(self, volume: Volume) -> None:
        self.blocks = 0  # in use, indirect ones included
        self._volume = volume
        self._slots = [0] * (DIRECT + _LEVELS)
        self._open: dict[int, tuple[int, list[int]]] = {}  # by level above the data

    def reach(self, logical: int) -> int:
        """Make the tables for a block of the file; return how many blocks from it on they serve.

        To be called before those blocks are taken: so the order of all blocks depends on the
        file alone, not on the pieces in which it is read. Raises OSError behind 4 TiB.
        """
        _, index, limit = self._place(logical)
        return limit - index

    def add(self, logical: int, physical: int, count: int) -> None:
        """Map the file's blocks from ``logical`` on to those of the volume from ``physical`` on."""
        self.blocks += count
        while count:
            table, index, limit = self._place(logical)
            length = min(count, limit - index)
            table[index : index + length] = range(physical, physical + length)
            logical, physical, count = logical + length, physical + length, count - length

    def close(self) -> bytes:
        """Write the tables still in memory; return the inode's i_block, 60 bytes."""
        for number, table in self._open.values():
            self._volume.put(number, pack_pointers(table))
        self._open.clear()
        return _SLOTS.pack(*self._slots)

    def _place(self, logical: int) -> tuple[list[int], int, int]:
        """Find the table that names a block, its index there, and where that table ends."""
        if logical < DIRECT:
            return self._slots, logical, DIRECT
        logical -= DIRECT
        depth = 1
        while logical >= POINTERS**depth:
            logical -= POINTERS**depth
            depth += 1
            if depth > _LEVELS:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        table, index = self._slots, DIRECT + depth - 1
        for level in reversed(range(depth)):
            table = self._below(table, index, level)
            index = logical // POINTERS**level % POINTERS
        return table, index, POINTERS

    def _below(self, table: list[int], index: int, level: int) -> list[int]:
        if not table[index]:
            if level in self._open:
                number, full = self._open[level]
                self._volume.put(number, pack_pointers(full))
            table[index] = self._volume.allocate_one()
            self._open[level] = table[index], [0] * POINTERS
            self.blocks += 1
        return self._open[level][1]


def direct_map(start: int, count: int) -> bytes:
    """Make the i_block of a file of up to twelve blocks in one run."""
    return _RUNS[count].pack(*range(start, start + count))


def map_runs(volume: Volume, runs: Iterable[Run]) -> tuple[bytes, int]:
    """Map blocks in their order; return the i_block, and how many blocks that takes in all."""
    blocks = BlockMap(volume)
    logical = 0
    for start, count in runs:
        blocks.add(logical, start, count)
        logical += count
    return blocks.close(), blocks.blocks


def put_blocks(volume: Volume, content: bytes) -> tuple[bytes, int]:
    """Write whole blocks of metadata; return their i_block, and how many blocks they take."""
    runs = volume.allocate(len(content) // BLOCK)
    done = 0
    for start, count in runs:
        volume.put(start, content[done * BLOCK : (done + count) * BLOCK])
        done += count
    return map_runs(volume, runs)
