"""Holes: where a file of the host has none, by lseek(2), and the zeros that others read there."""

import errno
import os
from collections.abc import Iterator

from singbuild.ext3.geometry import BLOCK

_PIECE = 1 << 20  # bytes of zeros at a time


def stored_parts(fd: int, end: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield where an open file has data from ``start`` to ``end``: begin and end, ascending.

    Offsets in bytes, widened to whole blocks of BLOCK within those two. Raises OSError.
    """
    done = start
    while done < end:
        try:
            data = os.lseek(fd, done, os.SEEK_DATA)
            # From there, not from the beginning of our block: where the host's blocks are smaller,
            # that may lie in a hole.
            hole = os.lseek(fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                return
            raise
        if data >= end:
            return
        first, done = max(data // BLOCK * BLOCK, done), min(-(-hole // BLOCK) * BLOCK, end)
        yield first, done


def zeros(size: int) -> Iterator[bytes]:
    """Yield so many zeros, in pieces."""
    piece = bytes(min(size, _PIECE))
    while size > 0:
        yield piece[:size]
        size -= len(piece)
