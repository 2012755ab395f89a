"""Whether the file systems of a build's directories can do what the build needs of them.

Scratch, target and cache need different things. Nothing is left behind by a look at them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from singbuild import host
from singbuild.errors import HostError
from singbuild.privilege import namespace
from singbuild.privilege.modes import Choice, Mode
from singbuild.tree import chroot
from singrun.mounts import mountinfo

SCRATCH = "Set SINGBUILD_TMPDIR to a directory on a local disk that you may write."


def check_space(directory: Path, needed: int, remedy: str) -> None:
    """Refuse a directory whose file system has less than ``needed`` bytes left."""
    free = host.free_bytes(directory)
    if free < needed:
        raise HostError(
            f"{shown(directory)} has {free >> 20} MiB left, "
            f"the build needs at least {needed >> 20} MiB",
            remedy=f"Free some space, or: {remedy}",
        )


def check_scratch(directory: Path, needed: int, choice: Choice) -> None:
    """Refuse a parent of scratch directories that cannot hold a tree, its owners and programs.

    needed: bytes. Raises HostError.
    """
    if reason := unwritable(directory):
        raise HostError(f"{shown(directory)} cannot be written", why=reason, remedy=SCRATCH)
    check_space(directory, needed, SCRATCH)
    if choice.mode is Mode.ROOT:  # its tree is in a file system of its own
        return
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        raise HostError(
            f"{shown(directory)} is mounted noexec",
            why="The programs of the image are executed there.",
            remedy=SCRATCH,
        )
    if refused := _owners_refused(directory, choice):
        alone = " --privilege one-id goes without other owners." if choice.ids else ""
        raise HostError(
            f"{shown(directory)} cannot hold files of other owners",
            why=f"chown: {os.strerror(refused)}. Network file systems and FUSE often refuse it.",
            remedy=SCRATCH + alone,
        )


def cache_trouble(directory: Path, needed: int) -> str:
    """Return what to say of a cache that cannot be written or is too small, "" for a good one.

    directory: it need not be there yet. needed: the bytes that a build takes at least.
    """
    there = next(path for path in (directory, *directory.parents) if os.path.exists(path))  # noqa: PTH110
    trouble = ""
    if reason := unwritable(there):
        trouble = f"cannot be written: {reason}; nothing is kept there"
    elif (free := host.free_bytes(there)) < needed:
        trouble = f"has {free >> 20} MiB left, this build keeps {needed >> 20} MiB or more there"
    remedy = "SINGBUILD_CACHEDIR names another directory for the cache."
    return f"{shown(directory)} {trouble}\n{remedy}" if trouble else ""


def unwritable(directory: Path) -> str:
    """Return why no file can be made in a directory, "" when one can."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def shown(directory: Path) -> str:
    """Return a directory with the type of its file system, such as "/home/ada (nfs4)"."""
    kind = mountinfo.kind_of(str(directory))
    return f"{directory} ({kind})" if kind else str(directory)


def _owners_refused(directory: Path, choice: Choice) -> int:
    """Return the errno with which a directory refuses an owner that the build can give, else 0."""
    if choice.ids:
        return namespace.as_owner(choice.ids, lambda: _chown(directory))
    return _chown(directory) if choice.mode is Mode.CHROOT and not chroot.has_one_id() else 0


def _chown(directory: Path) -> int:
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.fchown(file.fileno(), 1, 1)  # any id but root's, which the caller may be here
    except OSError as error:
        return error.errno or 1
    return 0
