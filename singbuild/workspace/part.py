"""Part files: what becomes a target is written beside it, and renamed into its place when whole."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from singbuild.errors import ImageError
from singbuild.workspace.holding import hold, hold_new
from singrun import syscalls


def resolved(target: Path) -> Path:
    """Return what a name of a target stands for, all links on the way resolved.

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

    path: its name, for who writes it. Whoever owns the directory can put something else there, so
    mode, owner and content that is copied go to the file itself, and what has its name in the end
    must be that file.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd, self._status = path, fd, os.fstat(fd)

    def opened(self) -> BinaryIO:
        """Open the file for reading and writing. Raises ImageError when its name is another's."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.fdopen(os.open(self.path, flags), "r+b")
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
            shutil.copyfileobj(readable, file)

    def chmod(self, mode: int) -> None:
        """Set its mode. Only in the process that made it."""
        os.fchmod(self._fd, mode)

    def take_over(self, replaced: os.stat_result) -> None:
        """Give it the mode of the file that it replaces, and the owner if we may; likewise."""
        with contextlib.suppress(PermissionError):
            os.fchown(self._fd, replaced.st_uid if os.geteuid() == 0 else -1, replaced.st_gid)
        self.chmod(replaced.st_mode & 0o777)  # no set-id bits

    def check_at(self, path: Path) -> None:
        """Raise ImageError when ``path`` does not name this file."""
        try:
            if os.path.samestat(path.lstat(), self._status):
                return
        except OSError:
            pass
        raise self._replaced()

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
    sweep_parts(target.parent, pattern)
    try:
        fd, path = _new_part(target)
    except OSError as error:
        raise ImageError(
            f"the image {target} cannot be written",
            why=f"{target.parent}: {error.strerror}",
            remedy="Name a target in a directory that exists and that you may write.",
        ) from error
    try:
        yield Part(path, fd)
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)
        sweep_parts(target.parent, pattern)


def sweep_parts(directory: Path, pattern: str) -> None:
    """Remove the part files in a directory, by glob pattern, whose writers are dead."""
    for path in directory.glob(pattern):
        with contextlib.suppress(OSError):
            lock = hold(path, os.O_RDWR | os.O_NOFOLLOW)
            if lock is not None:
                path.unlink()
                os.close(lock)


def _new_part(target: Path) -> tuple[int, Path]:
    while True:
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        if hold_new(fd):
            return fd, Path(name)
        os.close(fd)


def rename_into_place(
    part: Part, target: Path, *, replace: bool = True, lasting: bool = True
) -> None:
    """Make the finished file the target, all at once and lasting: rename(2) between fsync(2).

    replace: whether a target that is there may go; lasting: whether it has to outlive a crash of
    the host. Raises ImageError when it may not.
    """
    with part.opened() as file:
        if lasting:
            os.fsync(file.fileno())
        if replace:
            part.path.rename(target)
        else:
            _link_into_place(file.fileno(), part.path, target)
        part.check_at(target)
    if lasting:
        _sync(target.parent)


def _link_into_place(fd: int, path: Path, target: Path) -> None:
    try:
        os.link(f"/proc/self/fd/{fd}", target, follow_symlinks=True)  # linkat(2), AT_SYMLINK_FOLLOW
    except FileExistsError as error:
        raise ImageError(
            f"{target} appeared while the image was built",
            remedy="Name another target, or replace this one with --force.",
        ) from error
    except OSError:  # a file system without hard links
        path.rename(target)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
