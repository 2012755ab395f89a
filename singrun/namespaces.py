"""Leaving the host's namespaces, and becoming the caller again inside."""

import errno
import os

from singrun import syscalls
from singrun.errors import RunError
from singrun.identity import Caller, map_ids
from singrun.underlay import Root


def leave_host(caller: Caller, proc: int) -> bool:
    """Enter a private mount namespace; with the host's privilege if we have it.

    Returns whether it is so. Otherwise the caller is root of a new user
    namespace. proc: a descriptor of /proc/self. Nothing that is mounted from
    here on reaches the host; what the host mounts later still reaches us.
    """
    privileged = caller.uid == 0 and _unshared_mounts()
    if not privileged:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            map_ids(proc, inside=(0, 0), outside=(caller.uid, caller.gid))
        except OSError as error:
            raise _refused(error) from None
    try:
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        raise _refused(error) from None
    return privileged


def become(caller: Caller, proc: int) -> None:
    """From root of the user namespace back to the caller's own ids, in a second one inside it."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    map_ids(proc, inside=(caller.uid, caller.gid), outside=(0, 0))


def pivot(root: Root) -> None:
    """Make ``root`` the root, and let go of the host's. pivot_root(2), NOTES."""
    os.fchdir(root.fd)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")


def _unshared_mounts() -> bool:
    """Leave the host's mounts; False where root may not, as in most containers."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError:
        return False
    return True


def _refused(error: OSError) -> RunError:
    """Why this host gives an ordinary user no namespace of his own."""
    remedy = "Ask the administrator to allow user namespaces."
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        remedy = "Ask the administrator to raise the sysctl user.max_user_namespaces."
    elif _sysctl("kernel/unprivileged_userns_clone") == "0":
        remedy = "Ask the administrator to set the sysctl kernel.unprivileged_userns_clone=1."
    elif _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        remedy = (
            "Ask the administrator for an AppArmor profile that allows singrun user namespaces."
        )
    return RunError("Cannot create a user namespace", why=f"{error.strerror}.", remedy=remedy)


def _sysctl(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}") as file:
            return file.read().strip()
    except OSError:
        return ""
