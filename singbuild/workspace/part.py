"""Part files: what becomes a target is written beside it, and renamed into its place when whole."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from singbuild.errors import ImageError
from singbuild.workspace.holding import hold, hold_new
from singrun import syscalls

# Where copy_file_range(2) has no way between two files.
_NOT_IN_KERNEL = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_PIECE = 1 << 20  # bytes


def resolved(target: Path) -> Path:
    """Return the path of a target with all symbolic links resolved.

    Raises ImageError for a link that another user has put into a directory of all, as the kernel
    does by default (proc(5), protected_symlinks), wherever on the way it is.
    """
    there, waiting, links = Path("/"), [*reversed(target.absolute().parts[1:])], 0
    while waiting:
        part = waiting.pop()
        here = there.parent if part == ".." else there / part
        if part == ".." or not here.is_symlink():
            there = here
            continue
        links += 1
        if links > syscalls.MAXSYMLINKS:
            raise ImageError(f"{target}: too many levels of symbolic links")
        _check_link(here, there.stat())
        aim = here.readlink()
        there = Path("/") if aim.is_absolute() else there
        waiting += [step for step in reversed(aim.parts) if step != "/"]
    return there


def _check_link(link: Path, parent: os.stat_result) -> None:
    """Refuse a link of another user's in a directory where everybody may put one."""
    shared = parent.st_mode & 0o002 and parent.st_mode & stat.S_ISVTX
    if shared and link.lstat().st_uid not in (os.geteuid(), parent.st_uid):
        raise ImageError(
            f"{link} is another user's link in a directory of all",
            remedy="Remove it, or name another target.",
        )


class Part:
    """A locked file beside a target, on its way to become it.

    path: its name, for messages. Whoever owns the directory, or one above it, can put something
    else there, so everything is done by descriptor, and what has its name in the end must be that
    file.
    """

    def __init__(self, path: Path, directory: int, fd: int) -> None:
        self.path, self._directory, self._fd = path, directory, fd
        self._status = os.fstat(fd)

    @property
    def file(self) -> Path:
        """Return the file itself, whatever has its name, for who writes it in this process."""
        return Path(f"/proc/self/fd/{self._fd}")

    def opened(self) -> BinaryIO:
        """Open the file for reading and writing. Raises ImageError when its name is another's."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.fdopen(os.open(self.path.name, flags, dir_fd=self._directory), "r+b")
        except OSError:
            raise self._replaced() from None
        if not os.path.samestat(os.fstat(file.fileno()), self._status):
            file.close()
            raise self._replaced()
        return file

    def copy_from(self, source: Path) -> None:
        """Fill it with a copy of the image ``source``."""
        with source.open("rb") as readable, self.opened() as file:
            os.fchmod(file.fileno(), 0o755)
            file.truncate()
            copy_data(readable, file)

    def chmod(self, mode: int) -> None:
        """Set its mode. Only in the process that made it."""
        os.fchmod(self._fd, mode)

    def copy_owner_and_mode_from(self, other: os.stat_result) -> None:
        """Set the mode of the file that it replaces, and the owner where chown(2) is permitted."""
        with contextlib.suppress(PermissionError):
            os.fchown(self._fd, other.st_uid if os.geteuid() == 0 else -1, other.st_gid)
        self.chmod(other.st_mode & 0o777)  # no set-id bits

    def become(self, name: str, *, replace: bool, lasting: bool) -> None:
        """Get another name in its directory: see ``rename_into_place``."""
        with self.opened() as file:
            if lasting:
                # The data first: a crash after the rename could leave the name with an empty file.
                os.fsync(file.fileno())
            if replace:
                self._rename(name)
            else:
                self._link(file.fileno(), name)
            try:
                status = os.lstat(name, dir_fd=self._directory)
            except OSError:
                raise self._replaced() from None
            if not os.path.samestat(status, self._status):
                raise self._replaced()
        if lasting:
            # fsync(2) of a file says nothing of its name, which is the directory's.
            os.fsync(self._directory)

    def _rename(self, name: str) -> None:
        here = self._directory
        os.rename(self.path.name, name, src_dir_fd=here, dst_dir_fd=here)

    def _link(self, fd: int, name: str) -> None:
        """linkat(2) with AT_SYMLINK_FOLLOW, which replaces nothing."""
        try:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self._directory, follow_symlinks=True)
        except FileExistsError as error:
            raise ImageError(
                f"{self.path.with_name(name)} appeared while the image was built",
                remedy="Name another target, or replace this one with --force.",
            ) from error
        except OSError:  # a file system without hard links
            self._rename(name)
        else:
            os.unlink(self.path.name, dir_fd=self._directory)

    def _replaced(self) -> ImageError:
        return ImageError(
            f"{self.path} was replaced by another process",
            why="Nothing is written to what is there now.",
            remedy="Name a target in a directory that only you may write.",
        )


@contextlib.contextmanager
def part_file(target: Path) -> Iterator[Part]:
    """Make an empty, locked file beside ``target`` to write the image to; sweep dead ones.

    It is gone after the with-block unless it was renamed. Raises ImageError when
    the target's directory cannot be written.
    """
    pattern = f".{glob.escape(target.name)}.*.part"
    try:
        directory = opened_directory(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        _sweep(directory, pattern)
        try:
            fd, name = _new_part(directory, target.name)
        except OSError as error:
            raise _unwritable(target, error) from error
        try:
            yield Part(target.with_name(name), directory, fd)
        finally:
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(fd)
            _sweep(directory, pattern)
    finally:
        os.close(directory)


def copy_data(source: BinaryIO, target: BinaryIO) -> None:
    """Give an empty file the data of another; holes stay holes. Raises OSError.

    copy_file_range(2): where the file system can, both files share their blocks.
    """
    fd, end = source.fileno(), 0
    size = os.fstat(fd).st_size
    os.ftruncate(target.fileno(), size)
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)


def _copy_range(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source.fileno(), target.fileno(), end - start, start, start)
        except OSError as error:
            if error.errno not in _NOT_IN_KERNEL:
                raise
            data = os.pread(source.fileno(), min(_PIECE, end - start), start)
            count = os.pwrite(target.fileno(), data, start)
        if not count:
            raise OSError(errno.EIO, "it became shorter while it was copied", source.name)
        start += count


def opened_directory(path: Path) -> int:
    """Open a target's directory: a link that comes on the way meanwhile is not followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    there = str(resolved(path))
    return syscalls.openat2(syscalls.AT_FDCWD, there, flags, syscalls.RESOLVE_NO_SYMLINKS)


def _unwritable(target: Path, error: OSError) -> ImageError:
    return ImageError(
        f"the image {target} cannot be written",
        why=f"{target.parent}: {error.strerror}",
        remedy="Name a target in a directory that exists and that you may write.",
    )


def sweep_parts(directory: Path, pattern: str) -> None:
    """Remove the part files in a directory, by glob pattern, whose writers are dead."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sweep(fd, pattern)
        finally:
            os.close(fd)


def _sweep(directory: int, pattern: str) -> None:
    for name in fnmatch.filter(os.listdir(directory), pattern):
        with contextlib.suppress(OSError):
            lock = hold(name, os.O_RDWR | os.O_NOFOLLOW, directory)
            if lock is not None:
                try:
                    os.unlink(name, dir_fd=directory)
                finally:
                    os.close(lock)


def _new_part(directory: int, target: str) -> tuple[int, str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = f".{target}.{secrets.token_hex(4)}.part"
        with contextlib.suppress(FileExistsError):
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            if hold_new(fd):
                return fd, name
            os.close(fd)


def rename_into_place(
    part: Part, target: Path, *, replace: bool = True, lasting: bool = True
) -> None:
    """Make the finished file the target, all at once and lasting: rename(2) between fsync(2).

    target: as ``part_file`` got it; replace: whether one that is there may go; lasting: whether it
    has to outlive a crash of the host. Raises ImageError when it may not.
    """
    part.become(target.name, replace=replace, lasting=lasting)
