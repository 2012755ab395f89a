"""What a run of the tests has of the host for itself, and what a test left on it.

Root's runs take a mount namespace of their own: other people's mounts are not seen in it, /var/tmp
(where singrun and singbuild go by default) is a directory of the run's, and /dev/fuse has the mode
that it has on an ordinary host. Accounts are the host's; one lock keeps two runs from
editing /etc/passwd at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from singrun import syscalls

VARIABLE = "SINGBUILD_TEST_RUN"
"""Names the directory of the run (tests.bench.once), and so marks all of its processes."""

PATIENCE = float(os.environ.get("SINGBUILD_TEST_PATIENCE", "1"))
"""The factor that stretches every time limit of the tests, on hosts that are slow or busy."""


@contextlib.contextmanager
def processor_time(most: float) -> Iterator[None]:
    """Fail where a with-block takes more seconds of the processor, times PATIENCE.

    most: with an input of a third of the size, what is linear takes a third of the time, and what
    is quadratic a ninth; so a bound that is a ninth as high finds the same.
    """
    begin = time.process_time()
    yield
    assert time.process_time() - begin < most * PATIENCE


LEFT_OPEN = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
for number in range(3, 1100):
    os.dup2(0, number)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Executes its arguments with more descriptors than select(2) takes, which ends at 1,024."""


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something that happens soon, such as the end of a killed process's children.

    On a busy host a Python starts in half a minute: who waits for an event loses nothing by that.
    """
    end = time.monotonic() + seconds * PATIENCE
    while not is_so():  # asked once: it may be over by the next time
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def random_numbers(seed: int | None = None) -> random.Random:
    """Return random numbers that SINGBUILD_TEST_SEED gives again; it is printed.

    seed: the usual one, where a test is to do the same each time; else it is another each time.
    """
    if text := os.environ.get("SINGBUILD_TEST_SEED"):
        seed = int(text)
    elif seed is None:
        seed = time.time_ns()
    print(f"SINGBUILD_TEST_SEED={seed}")
    return random.Random(seed)


@functools.cache
def may_mount() -> bool:
    """Tell whether a mount namespace can be had, as root in a plain container cannot."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Lock something that a host has only once, for the time of a with-block."""
    with _lock_file(name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_LOGS = [Path("/root", name) for name in (".singularity", ".apptainer")]
_LOCKS: list[int] = []


def _lock_file(name: str) -> Path:
    """Return the file by which runs on one host agree about something of the host."""
    directory = Path("/run/lock")
    directory.mkdir(exist_ok=True)  # a container has a /run without it
    return directory / f"singbuild-tests-{name}"


def own_mount_namespace() -> Path | None:
    """Give this process a mount namespace, with a /var/tmp, /run/singrun and /dev/fuse of its own.

    Neither do root's instances write their output where this host's root keeps it.

    Returns None where mounts are not allowed: an ordinary user, or root in a plain container.
    """
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    except OSError:
        return None
    run = Path(os.environ[VARIABLE]).name  # its janitor knows the directory by it
    directory = Path(tempfile.mkdtemp(prefix=f"singbuild-{run}-", dir="/var/tmp"))
    directory.chmod(0o1777)
    if Path("/dev/fuse").exists():
        fuse = directory / "fuse"
        os.mknod(fuse, 0o20666, Path("/dev/fuse").stat().st_rdev)
        fuse.chmod(0o666)
        try:
            syscalls.mount(str(fuse), "/dev/fuse", "", syscalls.MS_BIND)
        except OSError:
            fuse.unlink()
    checkout = Path(__file__).resolve().parents[2]
    tree = syscalls.open_tree(syscalls.AT_FDCWD, str(checkout), syscalls.OPEN_TREE_CLONE)
    syscalls.mount(str(directory), "/var/tmp", "", syscalls.MS_BIND)
    if checkout.is_relative_to("/var/tmp"):  # where it would be hidden now
        checkout.mkdir(parents=True)
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, str(checkout), flags)
    os.close(tree)
    names = Path("/run/singrun")  # where root's launches meet
    names.mkdir(mode=0o700, exist_ok=True)
    syscalls.mount("tmpfs", str(names), "tmpfs", 0, "mode=0700")
    MEETING_PLACES.append(names)
    _LOCKS.append(os.open(_lock_file("logs"), os.O_RDWR | os.O_CREAT))
    fcntl.flock(_LOCKS[0], fcntl.LOCK_SH)
    for logs in _LOGS:
        logs.mkdir(mode=0o700, exist_ok=True)
        syscalls.mount("tmpfs", str(logs), "tmpfs", 0, "mode=0700")
    return directory


def give_back(directory: Path) -> None:
    """Remove what own_mount_namespace made; the namespace ends with this process."""
    for place in (*map(str, _LOGS), "/run/singrun", "/var/tmp"):
        with contextlib.suppress(OSError):  # it is none any more
            syscalls.umount2(place, syscalls.MNT_DETACH)
    # To remove a mount point is to unmount it for other runs, too: the last of them does.
    runs = _LOCKS.pop()
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(runs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for logs in _LOGS:
            with contextlib.suppress(OSError):  # something is in it
                logs.rmdir()
    os.close(runs)
    shutil.rmtree(directory, ignore_errors=True)


def accounts() -> contextlib.AbstractContextManager[None]:
    """Lock the host's accounts, for the time of a with-block."""
    return alone("accounts")


@dataclass(frozen=True)
class HostState:
    """Mounts, loop devices and child processes, those of this run alone.

    mounts: lines of /proc/self/mounts below the run's directories. loops: device -> its file.
    children: (pid, start time in ticks since boot) -> name; proc(5), stat, fields 2 and 22.
    instances: pid -> the socket that it is reached by.
    """

    mounts: frozenset[str]
    loops: dict[str, str]
    children: dict[tuple[int, int], str]
    instances: dict[int, str]

    def new_since(self, before: HostState) -> HostState:
        """Return what is here and was not before."""
        return HostState(
            self.mounts - before.mounts,
            {device: file for device, file in self.loops.items() if device not in before.loops},
            {key: name for key, name in self.children.items() if key not in before.children},
            {pid: name for pid, name in self.instances.items() if pid not in before.instances},
        )

    def __bool__(self) -> bool:
        return bool(self.mounts or self.loops or self.children or self.instances)

    def end(self) -> None:
        """End the processes, unmount and detach, so that the next test starts clean."""
        for pid in self.instances:  # whose parent they left, so that nobody can wait for them
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid, _ in self.children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for line in sorted(self.mounts, key=len, reverse=True):
            with contextlib.suppress(OSError):
                place = line.split()[1].encode().decode("unicode_escape")
                syscalls.umount2(place, syscalls.MNT_DETACH)
        for device in self.loops:
            subprocess.run(["losetup", "--detach", f"/dev/{device}"], check=False)


def host_state(base: str) -> HostState:
    """Look at the host. base: pytest's directory; beside it only shared_directory's are ours."""
    ours = (base, *OWN_DIRECTORIES)
    lines = _read("/proc/self/mounts").splitlines()
    # No glob and no Path, which take most of the time of a quick test: it is looked twice.
    loops = {
        name: file
        for name in os.listdir("/sys/block")
        if name.startswith("loop")
        and os.access(f"/sys/block/{name}/loop", os.F_OK)  # it has a file
        and (file := _read(f"/sys/block/{name}/loop/backing_file")).startswith(ours)
    }
    mounts = frozenset(line for line in lines if line.split()[1].startswith(ours))
    return HostState(mounts, loops, _children(), _instances())


MEETING_PLACES: list[Path] = []
"""Where instances of this run's users have their sockets."""

OWN_DIRECTORIES: list[str] = []
"""Directories of this run outside pytest's own."""

OWN_PROCESSES: set[int] = set()
"""Pids of daemons that serve several tests, and may be started anew within one."""


@contextlib.contextmanager
def shared_directory() -> Iterator[Path]:
    """Make a directory that every user may read; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="tests-", dir="/var/tmp"))
    path.chmod(0o755)
    OWN_DIRECTORIES.append(str(path))
    try:
        yield path
    finally:
        shutil.rmtree(path)
        OWN_DIRECTORIES.remove(str(path))


def _children() -> dict[tuple[int, int], str]:
    """The children of this process but for OWN_PROCESSES, zombies included."""
    result = {}
    for pid in map(int, _read(f"/proc/self/task/{os.getpid()}/children").split()):
        name, _, fields = _read(f"/proc/{pid}/stat").rpartition(")")
        if fields and pid not in OWN_PROCESSES:
            result[pid, int(fields.split()[19])] = name.partition("(")[2]
    return result


def _instances() -> dict[int, str]:
    """The instances that listen, by the process at the other end: unix(7), SO_PEERCRED."""
    result = {}
    for path in (each for place in MEETING_PLACES for each in place.rglob("instance-*")):
        with socket.socket(socket.AF_UNIX) as end, contextlib.suppress(OSError):  # it has ended
            end.settimeout(1)
            end.connect(str(path))
            credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            result[struct.unpack("iII", credentials)[0]] = str(path)
    return result


def _read(path: str) -> str:
    """The line in a file of the kernel's; "" when what it tells of has just gone."""
    try:
        with open(path, errors="surrogateescape") as file:  # names are bytes
            return file.read().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def swapped(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names for each other again and again, for the time of a with-block."""
    done, names = threading.Event(), (os.fsencode(one), os.fsencode(other))
    exchange = 2  # <linux/fs.h>, RENAME_EXCHANGE

    def swap() -> None:
        libc = ctypes.CDLL(None)
        while not done.is_set():
            assert libc.renameat2(-100, names[0], -100, names[1], exchange) == 0

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
