"""Meeting other launches of the same user on this host: Unix sockets in a directory of the user's.

Nobody else can enter that directory, so nobody else can take a name in it, or hold up who asks
there; abstract sockets would be anybody's, from within containers too. A process takes a name by
listening to a socket of that name, and has it as long as it lives: a socket that refuses
connections is a dead process's. unix(7).
"""

import errno
import fcntl
import os
import stat

from singrun import syscalls
from singrun.errors import RunError

_BACKLOG = 4096
_UID = os.geteuid()  # the host's; in a user namespace of ours it would be 0
# A login's /run/user/UID goes with the last session, and programs that were started may not.
_PLACES = ["/run/singrun"] if _UID == 0 else []
_PLACES += [f"/tmp/singrun-{_UID}", f"/run/user/{_UID}/singrun"]  # noqa: S108  checked before use
if _UID and os.path.isabs(os.environ.get("HOME", "")):  # where no other user can squat
    _PLACES.append(f"{os.environ['HOME']}/.singrun")
_ANSWER = 5.0  # seconds for the other end to say something
_PATIENCE, _PAUSE = 5.0, 0.001  # seconds for others of the user's to be done with taking a name


class Name:
    """A name that this process has taken. fd: the socket that others reach it by."""

    def __init__(self, directory: int, word: str, fd: int) -> None:
        self._directory, self._word, self.fd = directory, word, fd

    def become_peer(self) -> None:
        """Be the process that others find at the other end, instead of who forked this one.

        Those who asked before find no answer. unix(7), SO_PEERCRED: set by listen(2).
        """
        syscalls.listen(self.fd, 0)
        syscalls.set_timeouts(self.fd, _PAUSE)
        try:
            while True:
                os.close(syscalls.accept(self.fd))
        except BlockingIOError:
            syscalls.listen(self.fd, _BACKLOG)

    def close(self, *, leave: bool = False) -> None:
        """Let go of it. leave: another process holds the socket, so the name stays."""
        if not leave:
            _unlink(self._directory, self._word)
        for fd in (self._directory, self.fd):
            os.close(fd)


def of_image(status: os.stat_result) -> str:
    """Return the name that stands for an image's file or directory."""
    return f"image-{status.st_dev:x}-{status.st_ino:x}"


def image_state(status: os.stat_result, *, written: bool) -> str:
    """Tell an image's file from all others, and from itself before it changed.

    written: it changes while the instance lives, and directories do.
    """
    state = of_image(status)
    if written or not stat.S_ISREG(status.st_mode):
        return state
    return f"{state}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"


def marker(name: str, state: str) -> str:
    """Return what the mounts of an instance show; namespaces.mark()."""
    return f"singrun-instance-{name}-{state}"


def take(word: str) -> "Name | None":
    """Return the name, None if another process has it. RunError: there is no place for names.

    Names of dead processes are removed: a set's is one job step's, which nobody takes again.
    """
    directory = _opened(make=True)
    try:
        with_lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            _lock(with_lock)
            _living(directory, with_lock, "set-")
            fd = _listening(directory, word)
        finally:
            os.close(with_lock)
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
    for place in _PLACES:
        directory = _open(place)
        if directory < 0:
            continue
        try:
            fd = _connected(directory, word, seconds)
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


def heard(connection: int) -> bytes:
    """Return all that is said on it until the other end closes it, or ends.

    Raises BlockingIOError when it is silent for longer than reach() was told.
    """
    said = b""
    try:
        while more := os.read(connection, 1 << 12):
            said += more
    except ConnectionResetError:
        pass  # ended without having looked
    finally:
        os.close(connection)
    return said


def names(prefix: str) -> list[str]:
    """Return what begins with ``prefix``, without it; names of dead processes are removed."""
    found: set[str] = set()
    for place in _PLACES:
        directory = _open(place)
        if directory < 0:
            continue
        with_lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            _lock(with_lock)
            found |= {word.removeprefix(prefix) for word in _living(directory, with_lock, prefix)}
        finally:
            os.close(with_lock)
            os.close(directory)
    return sorted(found)


def _opened(*, make: bool) -> int:
    """Return the first of the places that is ours alone, made if need be."""
    for place in _PLACES:
        directory = _open(place, make=make)
        if directory >= 0:
            return directory
    why = f"None of {', '.join(_PLACES)} is a directory of yours that is closed to others."
    remedy = "Ask the administrator to remove what another user has put there."
    raise RunError("Cannot meet other launches on this host", why=why, remedy=remedy)


def _open(place: str, *, make: bool = False) -> int:
    """Open (O_PATH) a directory of the user's that nobody else may enter; -1 if it is not so."""
    try:
        if make:
            _make(place)
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return -1
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        return -1
    return fd if place.startswith("/run/") else _of_this_host(fd, make=make)


def _of_this_host(place: int, *, make: bool) -> int:
    """Open likewise what is this host's in a directory that hosts may share, as a /tmp on NFS.

    To one host the sockets of another are dead processes'. It is named by the kernel's boot id:
    random(4).
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            name = file.read().strip()
        if make:
            _make(name, place)
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
    except OSError:
        return -1
    finally:
        os.close(place)


def _make(name: str, directory: "int | None" = None) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return


def _lock(directory: int) -> None:
    """Wait until no other process takes or sweeps names. flock(2)."""
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


def _listening(directory: int, word: str) -> int:
    """Return a listening socket of that name, -1 if there is one that lives."""
    if not _swept(directory, word):
        return -1
    fd = syscalls.socket()
    try:
        syscalls.bind(fd, f"/proc/self/fd/{directory}/{word}")
        syscalls.listen(fd, _BACKLOG)
    except OSError:
        os.close(fd)
        raise
    return fd


def _living(directory: int, listing: int, prefix: str) -> list[str]:
    """Return what begins with ``prefix`` and has a process; what has none is removed."""
    words = [word for word in os.listdir(listing) if word.startswith(prefix)]
    return [word for word in words if not _swept(directory, word)]


def _swept(directory: int, word: str) -> bool:
    """Whether nobody has the name; what a dead process left of it is removed."""
    try:
        fd = _connected(directory, word, _ANSWER)
    except BlockingIOError:  # so many wait that it lives
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


def _connected(directory: int, word: str, seconds: float) -> int:
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
