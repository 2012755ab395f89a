"""Where an image's bytes go; usually a file, which a failure removes."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from singbuild.errors import HostError, ImageError

_DESCRIPTORS = Path("/proc/self/fd")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Target(Protocol):
    """Takes the bytes of a file system. Offsets and sizes in bytes, from its own start."""

    def write(self, data: bytes, offset: int) -> None:
        """Take ``data``, all of it."""

    def write_parts(self, parts: list[bytes | memoryview], offset: int) -> None:
        """Take up to 1024 parts that follow each other."""

    def truncate(self, size: int) -> None:
        """Take the size; what is never written reads as zeros."""


class Nowhere:
    """A target that discards what it takes, where the digests alone are of interest."""

    def write(self, data: bytes, offset: int) -> None:
        """Do nothing."""

    def write_parts(self, parts: list[bytes | memoryview], offset: int) -> None:
        """Do nothing."""

    def truncate(self, size: int) -> None:
        """Do nothing."""


class TargetFile:
    """An open file whose errors say which file system is full, and what to do.

    needed: bytes that the image is expected to take on disk. header: what stands
    before the file system; all offsets and sizes are counted from its end.
    """

    def __init__(self, path: Path, fd: int, header: bytes = b"") -> None:
        self.path, self.needed = path, 0
        self._fd, self._header = fd, header

    def check_room(self, needed: int) -> None:
        """Refuse before the first byte when the file system has less than ``needed`` free."""
        self.needed = needed
        if needed > _free(self._fd):
            raise self._failed(errno.ENOSPC)

    def write(self, data: bytes, offset: int) -> None:
        """pwrite(2) until everything is written."""
        rest = memoryview(data)
        offset += len(self._header)
        try:
            while rest:
                count = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError as error:
            raise self._failed(error.errno or 0) from error

    def write_parts(self, parts: list[bytes | memoryview], offset: int) -> None:
        """pwritev(2) of up to 1024 parts, one after the other."""
        try:
            count = os.pwritev(self._fd, parts, offset + len(self._header))
        except OSError as error:
            raise self._failed(error.errno or 0) from error
        if count < sum(map(len, parts)):  # the disk is nearly full, or a signal: write(2)
            self.write(b"".join(parts)[count:], offset + count)

    def truncate(self, size: int) -> None:
        """Set the size; what was never written is a hole."""
        try:
            os.ftruncate(self._fd, len(self._header) + size)
            os.pwrite(self._fd, self._header, 0)
        except OSError as error:
            raise self._failed(error.errno or 0) from error

    def finish(self, mode: int) -> None:
        """Give it its mode."""
        try:
            os.fchmod(self._fd, mode)
        except OSError as error:
            raise self._failed(error.errno or 0) from error

    def _failed(self, number: int) -> HostError:
        where = _mount_point(self.path)
        if number == errno.EFBIG:
            why = f"the file system on {where} holds no file as large as this image"
        elif number in _NO_ROOM:
            free = _free(self._fd)
            why = f"the file system on {where} is full: {self.needed} bytes needed, {free} free"
        else:
            why = os.strerror(number)
        remedy = f"Free space on {where}, or give the image a place on another file system."
        return HostError(f"cannot write {self.path}", why=why, remedy=remedy)


@contextmanager
def created(path: Path, header: bytes = b"") -> Iterator[TargetFile]:
    """Open a new file at ``path``, or the empty one there; remove it if the block fails.

    A path of a descriptor (``/proc/self/fd/N``) is that very file, which its owner removes.
    """
    fd = _opened(path)
    try:
        yield TargetFile(path.resolve(), fd, header)
    except BaseException:
        if path.parent != _DESCRIPTORS:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    # O_NONBLOCK: the open(2) of a FIFO in the place of the target would wait for a reader.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
    if path.parent != _DESCRIPTORS:
        flags |= os.O_CREAT | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o755)
    except OSError as error:
        raise ImageError(f"cannot create {path}", why=error.strerror or "") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        os.close(fd)
        raise ImageError(f"cannot write {path}", why="it exists and is not an empty file")
    return fd


def _free(fd: int) -> int:
    """Bytes that this user may still write there."""
    status = os.statvfs(fd)
    return status.f_bavail * status.f_frsize  # not f_bfree, which counts the reserve of root


def _mount_point(path: Path) -> Path:
    return next(above for above in path.parents if above.is_mount())
