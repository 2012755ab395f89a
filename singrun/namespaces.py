"""Leaving the host's namespaces, and becoming the caller again inside."""

import errno
import os

from singrun import syscalls
from singrun.errors import RunError
from singrun.identity import Caller, map_ids
from singrun.request import Request
from singrun.underlay import Root


def leave_host(caller: Caller, proc: int, *, slave: bool) -> bool:
    """Enter a private mount namespace; with the host's privilege if we have it.

    Returns whether it is so. Otherwise the caller is root of a new user
    namespace. proc: a descriptor of /proc/self. Nothing that is mounted from
    here on reaches the host; slave: what the host mounts later still reaches us.
    """
    privileged = os.geteuid() == 0 and _unshared_mounts()
    if not privileged:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            map_ids(proc, inside=(0, 0), outside=(caller.uid, caller.gid))
        except OSError as error:
            raise _refused(error) from None
    try:
        propagation = syscalls.MS_SLAVE if slave else syscalls.MS_PRIVATE
        syscalls.mount("", "/", "", syscalls.MS_REC | propagation)
    except OSError as error:
        raise _refused(error) from None
    return privileged


def unshare_for(request: Request, *, daemon: bool) -> None:
    """Enter the other namespaces that are asked for, and leave the mounts to a FUSE ``daemon``."""
    flags = syscalls.CLONE_NEWNS if daemon else 0
    flags |= syscalls.CLONE_NEWIPC if request.ipc else 0
    flags |= syscalls.CLONE_NEWUTS if request.uts else 0
    if flags:
        syscalls.unshare(flags)
    if request.hostname:
        _name_host(request.hostname)


def _name_host(name: str) -> None:
    try:
        syscalls.sethostname(name)
    except OSError as error:
        what = f"Cannot name the host {name}"
        raise RunError(what, why=f"{error.strerror}.", remedy="Use 64 letters at most.") from None


def become(caller: Caller, proc: int, *, privileged: bool) -> None:
    """From root to the caller's own ids; without privilege in a second user namespace inside."""
    if not privileged:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        map_ids(proc, inside=(caller.uid, caller.gid), outside=(0, 0))
    elif caller.behind_sudo:
        os.setgroups(caller.groups)
        os.setresgid(caller.gid, caller.gid, caller.gid)
        os.setresuid(caller.uid, caller.uid, caller.uid)


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
