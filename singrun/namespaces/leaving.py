"""Leaving the host's namespaces, and becoming the caller again inside."""

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
        self._pid, self._held = pid, [os.open("/proc/self/ns/user", os.O_RDONLY)]
        try:
            self._mounts, self._user = self._opened("mnt"), self._opened("user")
            self._owner = self._kept(fcntl.ioctl(self._mounts, _NS_GET_USERNS))
        except OSError:
            self.close()
            raise

    def are_ours(self) -> bool:
        """Whether leave_host() and become() of this user made them, and no program inside them."""
        own = self._held[0]
        if _is_same(self._owner, own):
            return _is_same(self._user, own)
        above = self._kept(fcntl.ioctl(self._user, _NS_GET_PARENT))
        host = self._kept(fcntl.ioctl(self._owner, _NS_GET_PARENT))
        uid = fcntl.ioctl(self._owner, _NS_GET_OWNER_UID, bytes(4))
        caller = os.geteuid().to_bytes(4, sys.byteorder)
        return _is_same(above, self._owner) and _is_same(host, own) and uid == caller

    def show(self, marker: str) -> bool:
        """Whether ``marker``, see mark(), is among the mounts. proc(5), mountinfo.

        It names their namespace, so that neither a copy, which a program inside may make, nor
        another process that has got this pid meanwhile is taken for it.
        """
        row = f" tmpfs {marker}-{os.fstat(self._mounts).st_ino} ".encode()
        with open(f"/proc/{self._pid}/mountinfo", "rb", buffering=0) as file:
            return row in (file.readall() or b"")

    def enter_owner(self, *names: str) -> None:
        """Enter those of ``names`` in /proc/PID/ns that are not the host's; be master of mounts."""
        found = [(self._opened(name), f"/proc/self/ns/{name}") for name in names]
        more = [fd for fd, ours in found if not os.path.samestat(os.fstat(fd), os.stat(ours))]
        if not _is_same(self._owner, self._held[0]):
            syscalls.setns(self._owner, syscalls.CLONE_NEWUSER)
        for fd in more:
            syscalls.setns(fd, 0)

    def enter_mounts(self) -> None:
        """See what the other sees, as the same user, and let go of it."""
        syscalls.setns(self._mounts, syscalls.CLONE_NEWNS)
        if not _is_same(self._owner, self._user):
            syscalls.setns(self._user, syscalls.CLONE_NEWUSER)
        self.close()

    def close(self) -> None:
        """Let go of them."""
        while self._held:
            os.close(self._held.pop())

    def _opened(self, name: str) -> int:
        return self._kept(os.open(f"/proc/{self._pid}/ns/{name}", os.O_RDONLY))

    def _kept(self, fd: int) -> int:
        self._held.append(fd)
        return fd


def mark(marker: str, place: str, proc: int) -> str:
    """Make ``place``, in a tmpfs of its own: files of it, bound inside, tell what made them.

    proc: a descriptor of /proc/self.
    """
    os.mkdir(place)
    namespace = os.readlink("ns/mnt", dir_fd=proc)[5:-1]  # mnt:[NUMBER]
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(f"{marker}-{namespace}", place, "tmpfs", flags, "mode=0755")
    return place


def _is_same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


def leave_host(caller: Caller, proc: int, *, slave: bool) -> bool:
    """Enter a private mount namespace; with the host's privilege if we have it.

    Returns whether it is so. Otherwise the caller is root of a new user
    namespace. proc: a descriptor of /proc/self. Nothing that is mounted from
    here on reaches the host; slave: what the host mounts later still reaches us.
    """
    caller.restore_rights()
    privileged = os.geteuid() == 0 and _unshared_mounts()
    if not privileged:
        lender = None
        if caller.fakeroot:
            from singrun.namespaces import mapping  # few ask

            lender = mapping.lender(caller.uid, caller.gid)
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            if not (lender and lender.call()):
                map_ids(proc, inside=(0, 0), outside=(caller.uid, caller.gid))
                if lender:
                    say("newuidmap refuses the ids lent to you: --fakeroot has no user but root")
        except OSError as error:
            raise _refused(error) from None
    try:
        propagation = syscalls.MS_SLAVE if slave else syscalls.MS_PRIVATE
        syscalls.mount("", "/", "", syscalls.MS_REC | propagation)
    except OSError as error:
        raise _refused(error) from None
    return privileged


def unshare_for(isolation: IsolationOptions, *, daemon: bool) -> None:
    """Enter the other namespaces that are asked for, and leave the mounts to a FUSE ``daemon``."""
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
    """From root to what the caller is inside; without privilege in a second user namespace.

    So nobody inside is master of the mounts, root of --fakeroot neither.
    """
    uid, gid = caller.inside
    if not privileged:
        if caller.fakeroot and (uid, gid) == (0, 0):
            from singrun.namespaces import mapping

            if mapping.has_range(proc):
                mapping.enter_whole(proc)
                return
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        map_ids(proc, inside=(uid, gid), outside=(0, 0))
    elif (uid, gid) != (os.geteuid(), os.getegid()):
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)  # for --add-caps; else execve(2) ends them
        os.setgroups(caller.groups if caller.behind_sudo else [gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


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
