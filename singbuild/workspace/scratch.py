"""Scratch directories: private, held while their build lives, swept by the next build."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from singbuild import command
from singbuild.errors import HostError
from singbuild.privilege import namespace, subordinate
from singbuild.workspace.directories import scratch_parent
from singbuild.workspace.holding import hold, hold_new

PREFIX = "singbuild-scratch-"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = "lock"


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a private, locked scratch directory for the time of a with-block; sweep dead ones.

    Before, for their room; and after, since a build killed a moment ago ends process by process.
    Raises HostError when it cannot be made.
    """
    parent = scratch_parent()
    sweep_scratch(parent)
    with contextlib.ExitStack() as stack:
        stack.callback(sweep_scratch, parent)
        try:
            directory = _new_scratch(parent, stack)
        except OSError as error:
            raise HostError(
                f"no scratch directory can be made in {parent}",
                why=str(error.strerror),
                remedy="Set SINGBUILD_TMPDIR to a directory on a local disk that you may write.",
            ) from error
        yield directory


def _new_scratch(parent: Path, stack: contextlib.ExitStack) -> Path:
    """Make a private directory and hold it. stack: removes it, then lets it go."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Another build sweeps it, as long as it is empty, for one that was killed here.
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
            place = os.open(directory, DIRECTORY)
            opened.callback(os.close, place)
            if os.listdir(place):  # noqa: PTH208 - by descriptor
                continue  # another directory, which somebody put in its place
            _disinherit(place)
            opened.callback(_remove_empty, directory)
            lock = os.open(_LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=place)
            opened.callback(os.close, lock)
            if hold_new(lock):
                opened.callback(remove_open, directory, place)
                stack.push(opened.pop_all())
                return directory


def _disinherit(directory: int) -> None:
    """Undo what a set-group-id parent and its default access control list hand down: acl(5)."""
    os.chown(directory, -1, os.getegid())
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):
            os.removexattr(directory, name)
    os.fchmod(directory, 0o700)


def remove_tree(directory: Path) -> None:
    """Remove a directory of the caller's, however deep, and also what is closed to its owner.

    What belongs to the caller's subordinate ids goes as well.
    """
    _remove(directory.parent, [directory.name])


def remove_open(directory: Path, fd: int) -> None:
    """Remove an open directory as ``remove_tree`` does, and whatever has its name only if empty.

    Whoever may write to the directory above could exchange names meanwhile.
    """
    # The lock last: a directory without one, which a removal that is killed would leave, is not
    # known to be ours.
    names = sorted(os.listdir(fd), key=lambda name: name == _LOCK)
    if names:
        _remove(Path(f"/proc/self/fd/{fd}"), names)
    _remove_empty(directory)


def _remove_empty(directory: Path) -> None:
    """Remove a directory if nothing is in it.

    To be called once more when its lock is closed: NFS and FUSE give a file that is removed while
    it is open another name there until then.
    """
    with contextlib.suppress(OSError):
        directory.rmdir()


def _remove(where: Path, names: Sequence[str]) -> None:
    """Remove what is in a directory under some names."""
    if os.geteuid():
        # chmod(1) follows a link that is named to it.
        paths = [name for name in names if not (where / name).is_symlink()]
        command.call(["chmod", "-R", "u+rwX", "--", *paths], cwd=where)
    # Not shutil.rmtree(), which calls itself for each level, and fails in a deep tree:
    # https://github.com/python/cpython/issues/89727
    words = ["rm", "-rf", "--", *names]
    command.call(words, cwd=where)
    remaining = any((where / name).exists() for name in names)
    if remaining and os.geteuid() and (ids := subordinate.ranges()):
        namespace.as_owner(ids, lambda: command.call(words, cwd=where).status)


def is_ours(directory: int) -> bool:
    """Whether an open directory is this user's, and closed to all others."""
    status = os.fstat(directory)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def sweep_scratch(parent: Path) -> None:
    """Remove our own scratch directories under ``parent`` whose builds are dead."""
    for directory in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            place = os.open(directory, DIRECTORY)
            stack.callback(os.close, place)
            # Others may make what they like here, under this name too.
            if not is_ours(place):
                continue
            try:
                lock = hold(_LOCK, os.O_RDWR | os.O_NOFOLLOW, place)
            except FileNotFoundError:  # it was killed before it made its lock, or after that went
                _remove_empty(directory)
                continue
            if lock is not None:
                stack.callback(_remove_empty, directory)
                stack.callback(os.close, lock)
                remove_open(directory, place)
