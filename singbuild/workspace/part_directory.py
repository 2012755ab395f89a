"""A directory beside a target, on its way to become it: what a part file is to an image file.

    .NAME.XXXX.part/        0700, held by its maker; the next maker removes those of dead ones
        tree/               what becomes the target

The directory itself is held (flock(2)): a file in it could go first when a removal is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from singbuild.errors import ImageError
from singbuild.workspace.holding import hold
from singbuild.workspace.part import opened_directory
from singbuild.workspace.scratch import DIRECTORY, is_ours, remove_open
from singrun import syscalls

_NOREPLACE, _EXCHANGE = 1, 2  # <linux/fs.h>


class PartDirectory:
    """A held directory beside a target, with what becomes that in it, both by descriptor.

    Whoever owns the directory of the target, or one above it, may put something else in its place.
    """

    def __init__(self, directory: int, place: int) -> None:
        self._directory, self._place = directory, place
        os.mkdir("tree", 0o755, dir_fd=place)
        self._tree = os.open("tree", DIRECTORY, dir_fd=place)

    @property
    def tree(self) -> Path:
        """Return what becomes the target, whatever has its name, for this process."""
        return Path(f"/proc/self/fd/{self._tree}")

    def become(self, target: Path, *, replace: bool) -> None:
        """Make the finished directory the target, all at once and lasting: renameat2(2).

        replace: whether a directory that is there may go. Raises ImageError when it may not.
        """
        # All its files in one call; fsync(2) takes them one by one.
        syscalls.syncfs(self._tree)
        try:
            if replace and self._is_there(target.name):
                self._rename(target, _EXCHANGE)  # the old one goes with the part
            else:
                self._rename(target, _NOREPLACE)
        except FileExistsError as error:
            raise ImageError(
                f"{target} appeared meanwhile",
                remedy="Name another target, or replace this one with --force.",
            ) from error
        syscalls.syncfs(self._directory)

    def close(self) -> None:
        """Close what becomes the target."""
        os.close(self._tree)

    def _is_there(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(name, dir_fd=self._directory)
            return True
        return False

    def _rename(self, target: Path, flags: int) -> None:
        """renameat2(2), where the file system knows it; else rename(2), twice for an exchange."""
        # os.rename() has no flags.
        libc, name = ctypes.CDLL(None, use_errno=True), os.fsencode(target.name)
        if libc.renameat2(self._place, b"tree", self._directory, name, flags) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), os.fspath(target))
        if flags == _NOREPLACE and self._is_there(target.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
        if flags == _EXCHANGE:
            os.rename(name, "old", src_dir_fd=self._directory, dst_dir_fd=self._place)
        os.rename("tree", name, src_dir_fd=self._place, dst_dir_fd=self._directory)


@contextlib.contextmanager
def part_directory(target: Path) -> Iterator[PartDirectory]:
    """Make an empty directory beside ``target`` to unpack into; sweep dead ones.

    It is gone after the with-block unless it was moved. Raises ImageError when the target's
    directory cannot be written.
    """
    _sweep(target)
    with contextlib.ExitStack() as stack:
        try:
            directory = opened_directory(target.parent)
            stack.callback(os.close, directory)
            name, place = _new(directory, target.name)
        except OSError as error:
            raise ImageError(
                f"the directory {target} cannot be written",
                why=f"{target.parent}: {error.strerror}",
                remedy="Name a target in a directory that exists and that you may write.",
            ) from error
        stack.callback(_sweep, target)
        stack.callback(os.close, place)
        stack.callback(remove_open, target.with_name(name), place)
        part = PartDirectory(directory, place)
        stack.callback(part.close)
        yield part


def _new(directory: int, target: str) -> tuple[str, int]:
    """Make and hold a directory beside the target; return its name and a descriptor."""
    while True:
        name = f".{target}.{secrets.token_hex(4)}.part"
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # another swept it
            os.mkdir(name, 0o700, dir_fd=directory)
            place = os.open(name, DIRECTORY, dir_fd=directory)
            with contextlib.suppress(OSError):  # some file systems of clusters know no locks
                fcntl.flock(place, fcntl.LOCK_EX)
            # Another directory, put in its place, is let be.
            is_new = is_ours(place) and not os.listdir(place)  # noqa: PTH208 - by descriptor
            if os.fstat(place).st_nlink and is_new:
                return name, place
            os.close(place)


def _sweep(target: Path) -> None:
    """Remove directories of dead makers, of this user only."""
    for each in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError):
            place = hold(each, DIRECTORY)
            if place is None:
                continue
            try:
                # Whoever may write here could give that name to another directory of this user.
                if is_ours(place) and {*os.listdir(place)} <= {"tree", "old"}:  # noqa: PTH208
                    remove_open(each, place)
            finally:
                os.close(place)
