"""Meeting other launches of the same user on this host, by a name that leaves no file.

An abstract Unix socket has its name as long as a process holds it, and no longer: unix(7).
Anybody may take any name, so the kernel is asked who is at the other end.
"""

import errno
import os

from singrun import syscalls

_BACKLOG = 4096
_UID = os.geteuid()  # the host's; in a user namespace of ours it would be 0


def name(*words: object) -> str:
    """Return the name that the ``words`` make, for this user."""
    return "-".join(["singrun", str(_UID), *map(str, words)])


def of_image(status: os.stat_result) -> str:
    """Return the name that stands for an image's file or directory."""
    return name("image", f"{status.st_dev:x}", f"{status.st_ino:x}")


def take(called: str) -> int:
    """Return a socket that has the name, -1 if another has it. listen(2) comes later."""
    fd = syscalls.socket()
    try:
        syscalls.bind(fd, called)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EADDRINUSE:
            raise
        return -1
    return fd


def let_in(fd: int) -> None:
    """Let others reach the socket that take() gave."""
    syscalls.listen(fd, _BACKLOG)


def reach(called: str) -> tuple[int, int]:
    """Return a connection, and the process of ours at its other end; (-1, 0): there is none."""
    fd = syscalls.socket()
    try:
        syscalls.connect(fd, called)
        pid, uid = syscalls.peer(fd)
    except OSError:
        pid, uid = 0, -1
    if pid and uid == _UID:
        return fd, pid
    os.close(fd)
    return -1, 0


def heard(connection: int) -> bytes:
    """Return all that is said on it until the other end closes it, or ends."""
    said = b""
    try:
        while more := os.read(connection, 1 << 12):
            said += more
    except ConnectionResetError:
        pass  # ended without having looked
    os.close(connection)
    return said
