"""A regular file's data as the image stores it: whole blocks, those of zeros left out."""

import os
from collections.abc import Iterator

from singbuild.errors import ImageError
from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.holes import stored_parts
from singbuild.ext3.node import Node, shown

PIECE = 1 << 20  # bytes read at a time: what bounds memory
_ZEROS = bytes(BLOCK)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Files:
    """Opens the files of a tree.

    The files of one directory follow each other: the directory stays open, which saves the
    kernel the way to it.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._number, self._fd, self._start = 0, -1, 0  # the open directory; where names start

    def opened(self, node: Node) -> int:
        """Open a file for reading; the caller closes it."""
        if node.parent != self._number:
            self.close()
            above, slash, _ = node.path.rpartition(b"/")
            self._fd = os.open(self._root + b"/" + above, _ENTER)
            self._number, self._start = node.parent, len(above + slash)
        return os.open(node.path[self._start :], _OPEN, dir_fd=self._fd)

    def close(self) -> None:
        """Close the directory."""
        if self._number:
            os.close(self._fd)
            self._number = 0


def pieces(node: Node, fd: int) -> Iterator[tuple[int, bytes]]:
    """Read a file as (offset, bytes), ascending; what the host stores as holes is skipped.

    Offsets are multiples of the block size. Raises ImageError if the file no
    longer has the size that the inventory found.
    """
    for start, end in stored_parts(fd, node.size):
        for offset in range(start, end, PIECE):
            length = min(PIECE, end - offset)
            data = os.pread(fd, length, offset)
            if len(data) != length:
                raise changed(node)
            yield offset, data
    if os.fstat(fd).st_size != node.size:
        raise changed(node)


def data_runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Find runs (first, count) of the blocks of ``data`` that are not all zeros."""
    leading = data[::BLOCK]
    start = 0
    # Most blocks do not begin with a zero byte: only the others are looked at whole.
    if 0 in leading:
        for index, first in enumerate(leading):
            if not first and _is_zero(data, index):
                if index > start:
                    yield start, index - start
                start = index + 1
    if len(leading) > start:
        yield start, len(leading) - start


def blocks_of(data: bytes, first: int, count: int) -> bytes:
    """``count`` blocks of ``data``; the last may be short."""
    if not first and count * BLOCK >= len(data):
        return data
    return data[first * BLOCK : (first + count) * BLOCK]


def changed(node: Node) -> ImageError:
    """Make the error for a file of another size than the inventory found."""
    return ImageError(
        f"cannot seal {shown(node.path)}",
        why=f"it no longer has the {node.size} bytes that it had a moment ago",
        remedy="End the program that writes there and build again.",
    )


def _is_zero(data: bytes, index: int) -> bool:
    block = data[index * BLOCK : (index + 1) * BLOCK]
    return block == _ZEROS[: len(block)]  # ends at the first other byte, which count() does not
