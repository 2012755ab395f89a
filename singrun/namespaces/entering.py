"""The namespaces of a program that singrun has started before, for a launch that goes there."""

import fcntl
import os
import sys

from singrun import syscalls

_NS_GET_USERNS, _NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704  # ioctl_ns(2)


class ProgramNamespaces:
    """The namespaces of a program that singrun started for this user, held open.

    is_inside: this process has entered one of them, from which there is no way back. OSError if
    process ``pid`` has ended, or is another user's.
    """

    is_inside = False

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
        """Whether the mounts have ``marker``, see leaving.make_marker(): proc(5), mountinfo.

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
            self._enter(self._owner, syscalls.CLONE_NEWUSER)
        for fd in more:
            self._enter(fd, 0)

    def enter_mounts(self) -> None:
        """Enter the program's mount and user namespaces, and close all descriptors."""
        # In this order: from the user namespace below its owner it would be refused.
        self._enter(self._mounts, syscalls.CLONE_NEWNS)
        if not _is_same(self._owner, self._user):
            self._enter(self._user, syscalls.CLONE_NEWUSER)
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _enter(self, fd: int, kind: int) -> None:
        syscalls.setns(fd, kind)
        self.is_inside = True

    def _open(self, name: str) -> int:
        return self._keep_open(os.open(f"/proc/{self._pid}/ns/{name}", os.O_RDONLY))

    def _keep_open(self, fd: int) -> int:
        self._descriptors.append(fd)
        return fd


def _is_same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))
