"""Runs a command where the root is the kernel's rootfs, as on a node that runs from its initramfs.

python3 -m tests.bench.initramfs COMMAND …, as root. No pivot_root(2) gets away from
such a root. Below every host's root lies one, empty; in a mount namespace of
our own the host's root is taken off it, and its directories are mounted there.
"""

from __future__ import annotations

import os
import subprocess
import sys

from singrun import syscalls

_TREES = ("usr", "etc", "var", "tmp", "dev", "proc", "sys", "root", "home", "run")
_LINKS = ("bin", "sbin", "lib", "lib64")
_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE


def main(command: list[str]) -> int:
    """Return the command's exit status."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    trees = {n: syscalls.open_tree(syscalls.AT_FDCWD, f"/{n}", _CLONE) for n in _TREES}
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    syscalls.umount2("/", syscalls.MNT_DETACH)
    syscalls.setns(own, syscalls.CLONE_NEWNS)  # our root becomes that of the namespace
    missing = [name for name in _TREES if not os.path.lexists(f"/{name}")]
    linked = [name for name in _LINKS if not os.path.lexists(f"/{name}")]
    try:
        for name in missing:
            os.mkdir(f"/{name}")
        for name in linked:
            os.symlink(f"usr/{name}", f"/{name}")
        for name, tree in trees.items():
            flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
            syscalls.move_mount(tree, "", syscalls.AT_FDCWD, f"/{name}", flags)
        return subprocess.run(command, check=False).returncode
    finally:
        for name in trees:
            syscalls.umount2(f"/{name}", syscalls.MNT_DETACH)
        for name in missing:
            os.rmdir(f"/{name}")
        for name in linked:
            os.unlink(f"/{name}")


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main(sys.argv[1:]))
