"""Leaving the host's namespaces, and becoming the caller again inside.

host ── unshare: user*, mounts ──▶ root that mounts ── unshare: user* ──▶ the caller's ids

* only where the caller is not root of the host. The second user namespace owns no mount
namespace, so the program has no CAP_SYS_ADMIN over the mounts: user_namespaces(7).
"""

import errno
import fcntl
import os
import sys

from singrun import syscalls
from singrun.errors import RunError, say
from singrun.identity import Caller, map_ids
from singrun.request import IsolationOptions

_SIOCSIFFLAGS, _IFF_UP, _IFNAMSIZ = 0x8914, 1, 16  # netdevice(7)


def make_marker(marker: str, place: str, proc: int) -> str:
    """Mount a tmpfs on a new directory ``place``, whose source names marker and mount namespace.

    entering.has_marker() finds it in /proc/PID/mountinfo. proc: a descriptor of /proc/self.
    """
    os.mkdir(place)
    namespace = os.readlink("ns/mnt", dir_fd=proc)[5:-1]  # mnt:[NUMBER]
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(f"{marker}-{namespace}", place, "tmpfs", flags, "mode=0755")
    return place


def leave_host(caller: Caller, proc: int, *, slave: bool) -> bool:
    """Enter a private mount namespace; return whether with the host's privilege.

    Without it the caller is root of a new user namespace. proc: a descriptor of
    /proc/self. No mount made from here on propagates to the host; slave: mounts that
    the host makes later still propagate to us. mount_namespaces(7).
    """
    caller.restore_rights()
    privileged = os.geteuid() == 0 and _unshare_mounts()
    if not privileged:
        mapper = None
        if caller.fakeroot:
            from singrun.namespaces import mapping  # few ask

            mapper = mapping.id_mapper(caller.uid, caller.gid)
        try:
            # In one call: the kernel makes the user namespace first, and it owns the mount
            # namespace, in which its root may mount. user_namespaces(7).
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            if not (mapper and mapper.call()):
                map_ids(proc, inside=(0, 0), outside=(caller.uid, caller.gid))
                if mapper:
                    say("newuidmap refuses the ids lent to you: --fakeroot has no user but root")
        except OSError as error:
            raise _user_namespace_error(error) from None
    try:
        propagation = syscalls.MS_SLAVE if slave else syscalls.MS_PRIVATE
        syscalls.mount("", "/", "", syscalls.MS_REC | propagation)
    except OSError as error:
        raise _user_namespace_error(error) from None
    return privileged


def unshare_for(isolation: IsolationOptions, *, daemon: bool) -> None:
    """Enter the other namespaces that options ask for.

    daemon: whether a FUSE daemon stays in this mount namespace; then we move on to a new one.
    """
    flags = syscalls.CLONE_NEWNS if daemon else 0
    flags |= syscalls.CLONE_NEWIPC if isolation.ipc else 0
    flags |= syscalls.CLONE_NEWUTS if isolation.uts else 0
    flags |= syscalls.CLONE_NEWNET if isolation.net else 0
    if flags:
        syscalls.unshare(flags)
    if isolation.net:
        _raise_loopback()
    if isolation.hostname:
        _name_host(isolation.hostname)


def _name_host(name: str) -> None:
    try:
        syscalls.sethostname(name)
    except OSError as error:
        what = f"Cannot name the host {name}"
        raise RunError(what, why=f"{error.strerror}.", remedy="Use 64 letters at most.") from None


def _raise_loopback() -> None:
    """Set the one interface of a new network namespace up. netdevice(7), SIOCSIFFLAGS."""
    control = syscalls.socket(syscalls.AF_INET, syscalls.SOCK_DGRAM)
    request = b"lo".ljust(_IFNAMSIZ, b"\0") + _IFF_UP.to_bytes(2, sys.byteorder) + bytes(22)
    fcntl.ioctl(control, _SIOCSIFFLAGS, request)
    os.close(control)


def become(caller: Caller, proc: int, *, privileged: bool) -> None:
    """Change to the caller's ids inside; without privilege in a second user namespace.

    The mount namespace belongs to the first, so that no program inside has CAP_SYS_ADMIN over
    it, not even as root of --fakeroot.
    """
    uid, gid = caller.inside
    if not privileged:
        if caller.fakeroot and (uid, gid) == (0, 0):
            from singrun.namespaces import mapping

            if mapping.has_range(proc):
                mapping.enter_with_all_ids(proc)
                return
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        map_ids(proc, inside=(uid, gid), outside=(0, 0))
    elif (uid, gid) != (os.geteuid(), os.getegid()):
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)  # for --add-caps; else execve(2) ends them
        os.setgroups(caller.groups if caller.behind_sudo else [gid])
        # Groups first: setresuid(2) takes CAP_SETGID out of the effective set,
        # PR_SET_KEEPCAPS or not.
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def _unshare_mounts() -> bool:
    """Leave the host's mount namespace; return False where root may not, as in most containers."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError:
        return False
    return True


def _user_namespace_error(error: OSError) -> RunError:
    """Return an error that says why this host gives an ordinary user no user namespace."""
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
