"""One process at a time for a name, on any file system and from any host: lock files with an owner.

flock(2) is refused by some file systems of clusters (ENOLCK, ENOSYS), and others grant it to one
process of each host. Creating a file that must not exist is atomic on all of them (open(2),
O_EXCL; on NFS since version 3)::

    NAME.owner1     who has it: a token, the boot, the network namespace
    NAME.owner2     who took it from an owner that is dead, and so on

An owner of this host is dead when nobody listens at the abstract socket of its token (unix(7)),
which the kernel closes with the process. One of another host is dead when it did not touch its
file for ``SILENCE`` seconds. A process that creates a file keeps it only if the earlier ones are
still those that it found dead, and no owner of a later one lives, which took this one for dead;
when it is done, it removes the earliest first. So two never have the name.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BEAT = 5.0  # seconds between two touches of an owner's file
SILENCE = 60.0  # seconds after which an owner of another host is taken for dead
UNSIGNED = 5.0  # seconds, likewise, for one that never wrote who it is
NAP = 0.05  # seconds between two looks, more the longer it takes
LONGEST_NAP = 1.0
_RECORD = 512  # bytes
_SOCKET = "\0singbuild-lease-"


@contextlib.contextmanager
def leased(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Own the name ``path`` for the time of a with-block; wait while another process owns it.

    on_wait: called once if one does. Yields whether a former owner may still be at work: one of
    another host, which fell silent. Raises OSError where no file can be created.
    """
    wait = _Wait(on_wait)
    while True:
        dead: list[tuple[Path, str]] = []
        owner = _first_free(path, wait, dead)
        if not all(_record(place) == record for place, record in dead):
            owner.give_up()
            time.sleep(random.uniform(0, NAP))  # not to meet again
        elif _is_overtaken(path, owner, wait, dead):
            owner.give_up()
            wait.nap()
        else:
            break
    try:
        yield any(not _is_of_here(record) for _, record in dead)
    finally:
        for place, record in dead:
            if _record(place) == record:  # one that was only slow may have given it up
                place.unlink(missing_ok=True)
        owner.give_up()


class _Owner:
    """A file that this process created. It is touched until it is given up.

    number: in its name.
    """

    def __init__(self, path: Path, number: int) -> None:
        place = _place(path, number)
        token = secrets.token_hex(16)
        self._socket = socket.socket(socket.AF_UNIX)
        self._fd, self.number = -1, number
        try:
            self._socket.bind(_SOCKET + token)
            self._socket.listen(64)
            self._fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._place = place
            os.write(self._fd, f"{token} {_here()}\n".encode())
            # NFS sends what was written when a descriptor is closed: nfs(5), "Close-to-open".
            os.close(os.dup(self._fd))
        except BaseException:
            self._socket.close()
            if self._fd >= 0:
                self.give_up()
            raise
        _hearts.add(self._fd)

    def has_file(self) -> bool:
        """Whether its name still leads to this file."""
        try:
            return os.path.samestat(self._place.lstat(), os.fstat(self._fd))
        except OSError:
            return False

    def give_up(self) -> None:
        """Remove the file, if it is still this one."""
        _hearts.drop(self._fd)
        with contextlib.suppress(OSError):
            if self.has_file():
                self._place.unlink()
        os.close(self._fd)
        self._socket.close()


class _Hearts:
    """Touches the files of all owners in this process, by one thread."""

    def __init__(self) -> None:
        self._reset()
        # A child has no such thread, and would wait for ever for a lock that the thread
        # held at fork(2).
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._fds: set[int] = set()
        self._is_running = False

    def add(self, fd: int) -> None:
        """Touch a file from now on."""
        with self._lock:
            self._fds.add(fd)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._beat, daemon=True).start()

    def drop(self, fd: int) -> None:
        """Touch it no more."""
        with self._lock:
            self._fds.discard(fd)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                if not self._fds:
                    self._is_running = False
                    return
                for fd in self._fds:
                    # A file server may be away for a moment: SILENCE has room for many a
                    # beat that fails.
                    with contextlib.suppress(OSError):
                        os.utime(fd)


_hearts = _Hearts()


class _Wait:
    """Waits for owners, and remembers since when each has been silent."""

    def __init__(self, on_wait: Callable[[], None]) -> None:
        self._on_wait: Callable[[], None] | None = on_wait
        self._sightings: dict[tuple[Path, str], tuple[int, float]] = {}
        self._nap = NAP

    def nap(self) -> None:
        """Wait a little."""
        if self._on_wait:
            self._on_wait()
            self._on_wait = None
        time.sleep(self._nap)
        self._nap = min(self._nap * 1.2, LONGEST_NAP)

    def is_dead(self, place: Path, record: str) -> bool:
        """Whether the owner of a file, which wrote ``record`` there, is dead."""
        if _is_of_here(record):
            return not _listens(record.split()[0])
        try:
            touched = place.stat().st_mtime_ns
        except OSError:
            return False  # gone, or unreachable for the moment
        mtime, since = self._sightings.get((place, record), (-1, 0.0))
        if mtime != touched:  # by the file server's clock, whatever it shows
            self._sightings[place, record] = touched, time.monotonic()
            return False
        return time.monotonic() - since > (SILENCE if record else UNSIGNED)


def _first_free(path: Path, wait: _Wait, dead: list[tuple[Path, str]]) -> _Owner:
    """Create the first file that is not there; ``dead`` gets those before it, of dead owners."""
    number = 1
    while True:
        place = _place(path, number)
        try:
            return _Owner(path, number)
        except FileExistsError:
            record = _record(place)
        if record is not None and wait.is_dead(place, record):
            dead.append((place, record))
            number += 1
        elif record is not None:
            wait.nap()


def _is_overtaken(path: Path, owner: _Owner, wait: _Wait, dead: list[tuple[Path, str]]) -> bool:
    """Whether somebody took a new owner for dead, as one that stalled before it wrote who it is.

    Whoever did has a later file. ``dead`` gets those of dead owners.
    """
    number = owner.number + 1
    while (record := _record(place := _place(path, number))) is not None:
        if not wait.is_dead(place, record):
            return True
        dead.append((place, record))
        number += 1
    # Only now: who is done removes the files of the dead before its own.
    return not owner.has_file()


def _place(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.owner{number}")


def _record(place: Path) -> str | None:
    """Return what an owner wrote, "" for nothing that can be read, None for no file."""
    try:
        with place.open("rb") as file:
            return file.read(_RECORD).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def _here() -> str:
    """Name this host since its start, and the network namespace, where its sockets are heard."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"  # noqa: PTH116
    except OSError:
        return socket.gethostname()


def _is_of_here(record: str) -> bool:
    return record.partition(" ")[2] == _here()


def _listens(token: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(_SOCKET + token)
        except ConnectionRefusedError:
            return False
        except OSError:  # its queue is full: somebody listens
            return True
    return True
