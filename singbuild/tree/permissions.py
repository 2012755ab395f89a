"""Sets the permission bits that the owner of each file lacks: ``--fix-perms``."""

from __future__ import annotations

import os
import stat

from singbuild.tree.rootfs import Rootfs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fix(rootfs: Rootfs, *, wants: bool) -> None:
    """Add to each file and directory what its owner lacks, as ``chmod u+rwX``; report how many.

    wants: whether to do so at all. To be called when no program of the tree is executed any more:
    between lstat(2) and chmod(2) one could put a link in an entry's place.
    """
    if not wants:
        return
    count = 0
    # Not os.fwalk(), which has a directory open for each level, and in Python 3.11 calls itself.
    waiting = [os.fsencode(rootfs.root)]
    while waiting:
        directory = waiting.pop()
        try:
            fd = os.open(directory, _DIRECTORY)
        except OSError:
            continue  # the seal will say why it cannot be read
        try:
            for name in map(os.fsencode, os.listdir(fd)):  # noqa: PTH208 - by descriptor
                mode = os.lstat(name, dir_fd=fd).st_mode
                if stat.S_ISDIR(mode):
                    waiting.append(directory + b"/" + name)
                count += _fix(fd, name, mode)
        finally:
            os.close(fd)
    rootfs.report.line(f"--fix-perms: {count:,} files and directories")


def _fix(directory: int, name: bytes, mode: int) -> bool:
    """Change the mode of one entry; return whether it lacked anything."""
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return False
    enters = stat.S_ISDIR(mode) or bool(mode & 0o111)
    allowed = stat.S_IMODE(mode) | 0o600 | (0o100 if enters else 0)
    if allowed == stat.S_IMODE(mode):
        return False
    os.chmod(name, allowed, dir_fd=directory)
    return True
