"""Sets the permission bits that the owner of each file lacks: ``--fix-perms``."""

from __future__ import annotations

import os
import stat

from singbuild.tree.rootfs import Rootfs


def fix(rootfs: Rootfs, *, wants: bool) -> None:
    """Add to each file and directory what its owner lacks, as ``chmod u+rwX``; report how many.

    wants: whether to do so at all. To be called when no program of the tree is executed any more:
    between lstat(2) and chmod(2) one could put a link in an entry's place.
    """
    if not wants:
        return
    count = 0
    for _, directories, names, fd in os.fwalk(os.fsencode(rootfs.root), follow_symlinks=False):
        for name in (*directories, *names):
            mode = os.lstat(name, dir_fd=fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                continue
            enters = stat.S_ISDIR(mode) or bool(mode & 0o111)
            allowed = stat.S_IMODE(mode) | 0o600 | (0o100 if enters else 0)
            if allowed != stat.S_IMODE(mode):
                os.chmod(name, allowed, dir_fd=fd)
                count += 1
    rootfs.report.line(f"--fix-perms: {count:,} files and directories")
