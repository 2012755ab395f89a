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
_NS_GET_USERNS, _NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704  # ioctl_ns(2)


class ProgramNamespaces:
    """The namespaces of a program that singrun started for this user, held open.

    OSError if process ``pid`` has ended, or is another user's.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._descriptors = pid, [os.open("/proc/self/ns/user", os.O_RDONLY)]
        try:
            self._mounts, self._user = self._open("mnt"), self._open("user")
            self._owner = self._keep_open(fcntl.ioctl(self._mounts, _NS_GET_USERNS))
        except OSError:
            self.close()
            raise

    def are_ours(self) -> bool:
        """Whether leave_host() and become() of this user made them, and no program inside them."""
        own = self._descriptors[0]
        if _is_same(self._owner, own):
            return _is_same(self._user, own)
        above = self._keep_open(fcntl.ioctl(self._user, _NS_GET_PARENT))
        host = self._keep_open(fcntl.ioctl(self._owner, _NS_GET_PARENT))
        uid = fcntl.ioctl(self._owner, _NS_GET_OWNER_UID, bytes(4))
        caller = os.geteuid().to_bytes(4, sys.byteorder)
        return _is_same(above, self._owner) and _is_same(host, own) and uid == caller

    def has_marker(self, marker: str) -> bool:
        """Whether the mounts have ``marker``, see make_marker(): proc(5), mountinfo.

        The marker names its mount namespace. So it is not found in a copy of that namespace,
        which a program inside may make, nor in another process that was given this pid meanwhile.
        """
        row = f" tmpfs {marker}-{os.fstat(self._mounts).st_ino} ".encode()
        with open(f"/proc/{self._pid}/mountinfo", "rb", buffering=0) as file:
            return row in (file.readall() or b"")

    def enter_owner(self, *names: str) -> None:
        """Enter the owner of the mount namespace, and those of ``names`` that are not the host's.

        names: of files in /proc/PID/ns. As root of the owner this process has CAP_SYS_ADMIN over
        the mount namespace, which setns(2) requires.
        """
        descriptors = [(self._open(name), f"/proc/self/ns/{name}") for name in names]
        more = [fd for fd, ours in descriptors if not os.path.samestat(os.fstat(fd), os.stat(ours))]
        if not _is_same(self._owner, self._descriptors[0]):
            syscalls.setns(self._owner, syscalls.CLONE_NEWUSER)
        for fd in more:
            syscalls.setns(fd, 0)

    def enter_mounts(self) -> None:
        """Enter the program's mount and user namespaces, and close all descriptors."""
        # In this order: from the user namespace below its owner it would be refused.
        syscalls.setns(self._mounts, syscalls.CLONE_NEWNS)
        if not _is_same(self._owner, self._user):
            syscalls.setns(self._user, syscalls.CLONE_NEWUSER)
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _open(self, name: str) -> int:
        return self._keep_open(os.open(f"/proc/{self._pid}/ns/{name}", os.O_RDONLY))

    def _keep_open(self, fd: int) -> int:
        self._descriptors.append(fd)
        return fd


def make_marker(marker: str, place: str, proc: int) -> str:
    """Mount a tmpfs on a new directory ``place``, whose source names marker and mount namespace.

    has_marker() finds it in /proc/PID/mountinfo. proc: a descriptor of /proc/self.
    """
    os.mkdir(place)
    namespace = os.readlink("ns/mnt", dir_fd=proc)[5:-1]  # mnt:[NUMBER]
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(f"{marker}-{namespace}", place, "tmpfs", flags, "mode=0755")
    return place


def _is_same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


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
