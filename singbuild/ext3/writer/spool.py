"""Bytes that are too many for memory: appended in order, changed in place, read at any offset.

The last of them stay in memory, so that a usual tree needs no file. What is before them is in a
temporary file without a name, in $TMPDIR or /var/tmp: /tmp is memory, too, on many hosts.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import ClassVar

from singbuild.errors import HostError

_PIECE = 1 << 20  # bytes read at a time, a multiple of the size of any record read by ``records``


class Spool:
    """A sequence of bytes. A process forked later may read it, at the same time, as it was then.

    size: bytes. in_memory: as many are collected before they go into the file, which ends with
    the object. All methods raise HostError where the disk does not take or give the bytes.
    """

    in_memory: ClassVar[int] = 4 << 20

    def __init__(self) -> None:
        self.size = 0
        self._last = bytearray()
        self._last_start = 0  # offset of the first byte in memory
        self._fd = -1

    def append(self, data: bytes) -> int:
        """Add bytes at the end; return their offset."""
        offset = self.size
        self.size += len(data)
        self._last += data
        if len(self._last) > self.in_memory:
            self._write_out()
        return offset

    def change(self, offset: int, data: bytes) -> None:
        """Put other bytes in the place of as many that were appended at once."""
        if offset >= self._last_start:
            start = offset - self._last_start
            self._last[start : start + len(data)] = data
        else:
            try:
                os.pwrite(self._fd, data, offset)
            except OSError as error:
                raise _failed(error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        start = offset - self._last_start
        if start >= 0:
            return bytes(self._last[start : start + size])
        try:
            data = os.pread(self._fd, min(size, -start), offset)
        except OSError as error:
            raise _failed(error) from error
        return data + self._last[: size + start] if size + start > 0 else data

    def records(self, size: int) -> Iterator[bytes]:
        """Yield all bytes as records of ``size`` bytes, which divides a mebibyte."""
        for start in range(0, self.size, _PIECE):
            piece = self.read(start, _PIECE)
            for at in range(0, len(piece), size):
                yield piece[at : at + size]

    def _write_out(self) -> None:
        try:
            if self._fd < 0:
                self._fd = _temporary_file()
                weakref.finalize(self, os.close, self._fd)
            rest = memoryview(self._last)
            while rest:
                count = os.pwrite(self._fd, rest, self.size - len(rest))
                rest = rest[count:]
        except OSError as error:
            raise _failed(error) from error
        self._last, self._last_start = bytearray(), self.size


def _temporary_file() -> int:
    """Open a new file that has no name; return its descriptor."""
    directory = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - it gets no name there
    if not os.access(directory, os.W_OK | os.X_OK):
        directory = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.dup(file.fileno())


def _failed(error: OSError) -> HostError:
    return HostError(
        "a temporary file, for the list of what is in a large tree, cannot be used",
        why=error.strerror or str(error),
        remedy="Free some space; TMPDIR names another directory for temporary files.",
    )
