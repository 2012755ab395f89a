"""A process makes a mount its root directory, and lets go of the host's. pivot_root(2), NOTES."""

import errno
import os

from singrun import syscalls


def pivot(root: "str | int") -> None:
    """Make ``root``, the path or a descriptor of a mount, the root directory; OSError."""
    os.chdir(root)
    try:
        # "." twice needs no directory for the old root: it comes to lie over the new one.
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The initramfs cannot be unmounted; where a node runs from it, ``root`` is moved over it.
        syscalls.mount(".", "/", "", syscalls.MS_MOVE)
        os.chroot(".")
    os.chdir("/")
