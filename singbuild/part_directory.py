"""A directory beside a target, on its way to become it: what a part file is to an image file.

    .NAME.XXXX.part/        0700, held by its maker, removed by the next who makes one after it
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
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from singbuild import about, command
from singbuild.console.display import Console
from singbuild.errors import ImageError
from singbuild.file_tree import FileTree
from singbuild.formats.loading import Kind
from singbuild.workspace import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2  # <linux/fcntl.h>, <linux/fs.h>


def fill(target: Path, tree: FileTree, kind: Kind, console: Console, *, replace: bool) -> None:
    """Write a tree into a directory that becomes the target all at once, and tell of it.

    replace: whether a directory that is there may go. Raises ImageError, HostError.
    """
    with part_directory(target) as place:
        kind.write(tree, place, about.of(tree), console)
        move_into_place(place, target, replace=replace)
    with kind.open(target) as made:
        console.done(str(target), made.facts.size)


@contextlib.contextmanager
def part_directory(target: Path) -> Iterator[Path]:
    """Make an empty directory beside ``target`` to unpack into; sweep dead ones.

    It is gone after the with-block unless it was moved. Raises ImageError when the target's
    directory cannot be written.
    """
    _sweep(target)
    try:
        place, lock = _new(target)
    except OSError as error:
        raise ImageError(
            f"the directory {target} cannot be written",
            why=f"{target.parent}: {error.strerror}",
            remedy="Name a target in a directory that exists and that you may write.",
        ) from error
    try:
        (place / "tree").mkdir()
        yield place / "tree"
    finally:
        remove_tree(place)
        os.close(lock)
        _sweep(target)


def _new(target: Path) -> tuple[Path, int]:
    """Make and hold a directory beside the target."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        with contextlib.suppress(FileNotFoundError):  # another swept it before it was held
            lock = os.open(place, _DIRECTORY)
            with contextlib.suppress(OSError):  # some file systems of clusters know no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return place, lock
            os.close(lock)


def move_into_place(tree: Path, target: Path, *, replace: bool) -> None:
    """Make the finished directory the target, all at once and lasting: renameat2(2).

    replace: whether a directory that is there may go. Raises ImageError when it may not.
    """
    command.call(["sync", "-f", "--", tree])
    try:
        if replace and os.path.lexists(target):
            _rename(tree, target, _EXCHANGE)  # the old one goes with the part
        else:
            _rename(tree, target, _NOREPLACE)
    except FileExistsError as error:
        raise ImageError(
            f"{target} appeared meanwhile",
            remedy="Name another target, or replace this one with --force.",
        ) from error
    command.call(["sync", "-f", "--", target.parent])


def _rename(one: Path, other: Path, flags: int) -> None:
    """renameat2(2), where the file system knows it; else rename(2), twice for an exchange."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), os.fspath(other))
    if flags == _NOREPLACE and os.path.lexists(other):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(other))
    if flags == _EXCHANGE:
        other.rename(one.with_name("old"))
    one.rename(other)


def _sweep(target: Path) -> None:
    """Remove directories of dead makers, of this user only."""
    for found in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError):
            status = found.lstat()
            if status.st_uid != os.geteuid() or status.st_mode != stat.S_IFDIR | 0o700:
                continue
            lock = os.open(found, _DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(found)
            finally:
                os.close(lock)
