"""Meeting other launches of the same user on this host: Unix sockets in a directory of the user's.

No other user can enter that directory, and so none can take a name in it or make a launch wait
there. Abstract sockets would be open to all users, and to programs in containers. A process has a
name while it listens to a socket of that name: a socket that refuses connections was left by a
dead process. unix(7).
"""

import errno
import fcntl
import os
import stat

from singrun import syscalls
from singrun.errors import RunError
from singrun.namespaces import meeting_places

# The ranks of a node connect at once; more is capped, by default since Linux 5.4: listen(2).
_BACKLOG = 4096
_ANSWER = 5.0  # seconds for the other end to say something
_PATIENCE, _PAUSE = 5.0, 0.001  # seconds for others of the user's to be done with taking a name


class Name:
    """A name that this process has taken. fd: the socket that others reach it by."""

    def __init__(self, directory: int, word: str, fd: int) -> None:
        self._directory, self._word, self.fd = directory, word, fd

    def become_peer(self) -> None:
        """Make this process the peer that others see, instead of the one that forked it.

        listen(2) sets the credentials that SO_PEERCRED shows: unix(7). Connections made before
        are closed without an answer.
        """
        syscalls.listen(self.fd, 0)
        syscalls.set_timeouts(self.fd, _PAUSE)
        try:
            while True:
                os.close(syscalls.accept(self.fd))
        except BlockingIOError:
            syscalls.listen(self.fd, _BACKLOG)

    def close(self, *, leave: bool = False) -> None:
        """Release the name. leave: another process holds the socket, so only close it here."""
        if not leave:
            _unlink(self._directory, self._word)
        for fd in (self._directory, self.fd):
            os.close(fd)


def image_state(status: os.stat_result, *, writable: bool) -> str:
    """Tell an image's file from all others, and from itself before it changed.

    writable: it changes while the instance lives, and directories do.
    """
    state = meeting_places.of_image(status)
    if writable or not stat.S_ISREG(status.st_mode):
        return state
    return f"{state}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"


def marker(name: str, state: str) -> str:
    """Return the marker of an instance's mounts, for leaving.make_marker()."""
    return f"singrun-instance-{name}-{state}"


def take(word: str) -> "Name | None":
    """Take a name; return None if another process has it. Raises RunError without a directory.

    Names of dead rank sets are removed: one is of one job step, and never taken again.
    """
    directory = meeting_places.make_first()
    try:
        # Opened anew, since ``directory`` is O_PATH, by which nothing is locked or listed: open(2).
        locked_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            _lock(locked_fd)
            _living(directory, locked_fd, "set-")
            fd = _listen(directory, word)
        finally:
            os.close(locked_fd)
    except BaseException:
        os.close(directory)
        raise
    if fd < 0:
        os.close(directory)
        return None
    return Name(directory, word, fd)


def reach(word: str, seconds: float = _ANSWER) -> tuple[int, int]:
    """Return a connection, and the process at its other end; (-1, 0): there is none.

    seconds: how long it may be waited for, here and in every read from it.
    """
    for directory in meeting_places.opened():
        try:
            fd = _connect(directory, word, seconds)
        except OSError:
            fd = -1
        finally:
            os.close(directory)
        if fd >= 0:
            pid, uid = syscalls.peer(fd)
            if pid and uid == os.geteuid():
                return fd, pid
            os.close(fd)
    return -1, 0


def read_all(connection: int) -> bytes:
    """Read from a connection until the other end closes it, or ends.

    Raises BlockingIOError when nothing comes for as long as reach() was told.
    """
    answer = b""
    try:
        while more := os.read(connection, 1 << 12):
            answer += more
    except ConnectionResetError:
        pass  # ended without having looked
    finally:
        os.close(connection)
    return answer


def names(prefix: str) -> list[str]:
    """Return the names with ``prefix``, without it; those of dead processes are removed."""
    words: set[str] = set()
    for directory in meeting_places.opened():
        locked_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            _lock(locked_fd)
            words |= {word.removeprefix(prefix) for word in _living(directory, locked_fd, prefix)}
        finally:
            os.close(locked_fd)
            os.close(directory)
    return sorted(words)


def _lock(directory: int) -> None:
    """Wait until no other process takes or sweeps names. flock(2)."""
    # No flock(2) that waits: a holder that is stopped (Ctrl-Z) would stop all launches of the user.
    for _ in range(int(_PATIENCE / _PAUSE)):
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            import time  # built in; only who waits needs it

            time.sleep(_PAUSE)
        else:
            return
    remedy = "Look for a process of yours that is stopped."
    raise RunError("Cannot meet other launches on this host", why="It is busy.", remedy=remedy)


def _listen(directory: int, word: str) -> int:
    """Return a new listening socket of that name, -1 if a living process has it."""
    if not _remove_if_dead(directory, word):
        return -1
    fd = syscalls.socket()
    try:
        # By descriptor, so that nobody changes where it leads, and that it fits into 108
        # bytes: unix(7).
        syscalls.bind(fd, f"/proc/self/fd/{directory}/{word}")
        syscalls.listen(fd, _BACKLOG)
    except OSError:
        os.close(fd)
        raise
    return fd


def _living(directory: int, listing: int, prefix: str) -> list[str]:
    """Return the names with ``prefix`` of living processes; remove those of dead ones."""
    words = [word for word in os.listdir(listing) if word.startswith(prefix)]
    return [word for word in words if not _remove_if_dead(directory, word)]


def _remove_if_dead(directory: int, word: str) -> bool:
    """Remove the socket of a dead process; return whether the name is free."""
    try:
        fd = _connect(directory, word, _ANSWER)
    except BlockingIOError:  # its backlog is full, so it lives
        return False
    if fd >= 0:
        os.close(fd)
        return False
    _unlink(directory, word)
    return True


def _unlink(directory: int, word: str) -> None:
    try:
        os.unlink(word, dir_fd=directory)
    except FileNotFoundError:
        return


def _connect(directory: int, word: str, seconds: float) -> int:
    """Return a connection, -1 if nobody listens. BlockingIOError: too many wait already."""
    fd = syscalls.socket()
    try:
        syscalls.set_timeouts(fd, seconds)
        syscalls.connect(fd, f"/proc/self/fd/{directory}/{word}")
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return -1
        raise
    return fd
