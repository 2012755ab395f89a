"""Scratch directories: private, held while their build lives, swept by the next build."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from singbuild import command
from singbuild.errors import HostError
from singbuild.privilege import namespace, subordinate
from singbuild.workspace.directories import scratch_parent
from singbuild.workspace.holding import hold, hold_new

PREFIX = "singbuild-scratch-"


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a private, locked scratch directory for the time of a with-block; sweep dead ones.

    Before, for their room; and after, since a build killed a moment ago ends process by process.
    Raises HostError when it cannot be made.
    """
    parent = scratch_parent()
    sweep_scratch(parent)
    try:
        lock, directory = _new_scratch(parent)
    except OSError as error:
        raise HostError(
            f"no scratch directory can be made in {parent}",
            why=str(error.strerror),
            remedy="Set SINGBUILD_TMPDIR to a directory on a local disk that you may write.",
        ) from error
    try:
        yield directory
    finally:
        remove_tree(directory)
        os.close(lock)
        sweep_scratch(parent)


def _new_scratch(parent: Path) -> tuple[int, Path]:
    """Make a private directory; return the descriptor that holds it, and its path."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        _disinherit(directory)
        lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if hold_new(lock):
            return lock, directory
        os.close(lock)


def _disinherit(directory: Path) -> None:
    """Undo what a set-group-id parent and its default access control list hand down: acl(5)."""
    os.chown(directory, -1, os.getegid())
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):
            os.removexattr(directory, name)
    directory.chmod(0o700)


def remove_tree(directory: Path) -> None:
    """Remove a directory of the caller's, however deep, and also what is closed to its owner.

    What belongs to the caller's subordinate ids goes as well.
    """
    if os.geteuid():
        command.call(["chmod", "-R", "u+rwX", "--", directory])
    # Not shutil.rmtree(), which calls itself for each level, and fails in a deep tree:
    # https://github.com/python/cpython/issues/89727
    command.call(["rm", "-rf", "--", directory])
    if directory.exists() and os.geteuid() and (ids := subordinate.ranges()):
        namespace.as_owner(ids, lambda: command.call(["rm", "-rf", "--", directory]).status)


def sweep_scratch(parent: Path) -> None:
    """Remove our own scratch directories under ``parent`` whose builds are dead."""
    for directory in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            status = directory.lstat()
            # Others may make what they like here, under this name too.
            if status.st_uid != os.geteuid() or status.st_mode != stat.S_IFDIR | 0o700:
                continue
            lock = hold(directory / "lock", os.O_RDWR)
            if lock is not None:
                remove_tree(directory)
                os.close(lock)
