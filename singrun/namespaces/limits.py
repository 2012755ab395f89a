"""--memory, --cpus, --pids-limit and their like: a cgroup of version 2 for one launch.

cgroups(7), "Cgroups delegation": a user who may write to a cgroup may make others below it. So root
may, and a user below what systemd or a resource manager has handed to him. It is removed when
the program has ended; what a kill leaves behind, which is empty, goes with the next launch. A lock
on it, which ends with the launch, keeps it until the program is in it: flock(2).
"""

import contextlib
import fcntl
import os

from singrun.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # the latter beside version 1
_PREFIX = "singrun-"
_REMEDY = (
    "Ask for it where cgroups are delegated: systemd-run --user --scope, or your batch system."
)


class Cgroup:
    """A new cgroup. values: what is written to its files, by name. Raises RunError."""

    def __init__(self, values: "dict[str, str]") -> None:
        parent = _parent()
        self._parent = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        self._sweep()
        controllers = sorted({name.partition(".")[0] for name in values})
        self._enable(controllers, parent)
        try:
            self._fd = self._make()
            for name, value in values.items():
                self._write(self._fd, name, value)
        except OSError as error:
            self.remove()
            what, why = "Cannot limit the program", f"{parent}: {error.strerror}."
            raise RunError(what, why=why, remedy=_REMEDY) from None

    def enter(self) -> None:
        """Move this process into the cgroup; its children will be in it too."""
        self._write(self._fd, "cgroup.procs", "0")

    def remove(self) -> None:
        """Remove the cgroup, once no process is in it."""
        # EBUSY while the program's children are left in it; a later launch sweeps it.
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._parent)

    def _make(self) -> int:
        """Make the cgroup, and return a descriptor that holds a lock on it."""
        while True:
            # No number of a process: two may have the same one, in PID namespaces of their own.
            self._name = f"{_PREFIX}{os.urandom(8).hex()}"
            os.mkdir(self._name, dir_fd=self._parent)
            # Another launch may sweep it before it is locked.
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                fd = self._locked(self._name, fcntl.LOCK_SH)
                if os.access(self._name, os.F_OK, dir_fd=self._parent):
                    return fd
                os.close(fd)

    def _locked(self, name: str, kind: int) -> int:
        """Return a descriptor that holds a lock on a cgroup. BlockingIOError: others hold one."""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._parent)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _sweep(self) -> None:
        for name in os.listdir(self._parent):
            if name.startswith(_PREFIX):
                with contextlib.suppress(OSError):  # somebody is in it, or about to be
                    fd = self._locked(name, fcntl.LOCK_EX)
                    try:
                        os.rmdir(name, dir_fd=self._parent)
                    finally:
                        os.close(fd)

    def _enable(self, controllers: "list[str]", parent: str) -> None:
        """Enable controllers for the children of the parent cgroup, where they are not."""
        missing = set(controllers) - set(_read(f"{parent}/cgroup.controllers").split())
        if missing:
            what = f"Cannot limit {' and '.join(sorted(missing))} of the program"
            why = f"{parent} has no such controller of cgroups version 2."
            raise RunError(what, why=why, remedy=_REMEDY)
        have = _read(f"{parent}/cgroup.subtree_control").split()
        for name in [name for name in controllers if name not in have]:
            try:
                self._write(self._parent, "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                what, why = f"Cannot limit {name} of the program", f"{parent}: {error.strerror}."
                raise RunError(what, why=why, remedy=_REMEDY) from None

    @staticmethod
    def _write(directory: int, name: str, value: str) -> None:
        fd = os.open(name, os.O_WRONLY, dir_fd=directory)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _parent() -> str:
    """Return the directory of the parent for our cgroup: the parent of the caller's own.

    Not the caller's own: it holds processes, and cgroup v2 forbids limiting the children of such
    a cgroup (cgroups(7), "no internal processes" rule).
    """
    tops = [top for top in _HIERARCHIES if os.path.exists(f"{top}/cgroup.controllers")]
    lines = _read("/proc/self/cgroup").splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    if not tops or not own:
        why = "There are no cgroups of version 2."
        raise RunError("Cannot limit the program", why=why, remedy=_REMEDY)
    return os.path.normpath(f"{tops[0]}/{os.path.dirname(own)}")


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def files(limits: "dict[str, str]") -> "dict[str, str]":
    """Return what is written to which file of a cgroup. limits: option to its value."""
    values: dict[str, str] = {}
    for option, value in limits.items():
        try:
            values |= _FILES[option](value)
        except (ValueError, OverflowError):
            remedy = "Say numbers; of bytes also with K, M, G or T."
            raise RunError(f"Cannot understand --{option} {value}", remedy=remedy) from None
    if "memory-swap" in limits and limits["memory-swap"] != "-1":
        if "memory" not in limits:
            raise RunError("Cannot use --memory-swap alone", remedy="Say --memory, too.")
        swap = _bytes(limits["memory-swap"]) - _bytes(limits["memory"])
        values["memory.swap.max"] = str(max(swap, 0))
    return values


def _bytes(text: str) -> int:
    number, unit = text, 1
    letter = text.lower().removesuffix("b")[-1:]
    if letter and letter in "kmgt":
        number = text.lower().removesuffix("b")[:-1]
        unit = 1 << 10 * ("kmgt".index(letter) + 1)
    return _positive(number.lower().removesuffix("b")) * unit


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(text)
    return int(text)


def _between(text: str, least: int, most: int) -> int:
    if not least <= _positive(text) <= most:
        raise ValueError(text)
    return int(text)


def _cpu_set(text: str) -> str:
    if not text or text.strip("0123456789,-"):
        raise ValueError(text)
    return text


def _quota(text: str) -> str:
    microseconds = int(float(text) * _PERIOD)
    if microseconds < 1000:  # the least that cpu.max takes
        raise ValueError(text)
    return f"{microseconds} {_PERIOD}"


_PERIOD = 100_000  # microseconds
# Shares (2 to 262144) and the weight of block devices (10 to 1000) are of version 1; these are the
# conversions of the OCI's runtimes. Kernel, Documentation/admin-guide/cgroup-v2.rst.
_FILES: "dict[str, Callable[[str], dict[str, str]]]" = {
    "memory": lambda text: {"memory.max": str(_bytes(text))},
    "memory-reservation": lambda text: {"memory.low": str(_bytes(text))},
    "memory-swap": lambda text: {"memory.swap.max": "max" if text == "-1" else str(_bytes(text))},
    "cpus": lambda text: {"cpu.max": _quota(text)},
    "cpu-shares": lambda t: {"cpu.weight": str(1 + (_between(t, 2, 262144) - 2) * 9999 // 262142)},
    "cpuset-cpus": lambda text: {"cpuset.cpus": _cpu_set(text)},
    "cpuset-mems": lambda text: {"cpuset.mems": _cpu_set(text)},
    "pids-limit": lambda text: {"pids.max": "max" if text == "-1" else str(_positive(text))},
    "blkio-weight": lambda t: {"io.weight": str(1 + (_between(t, 10, 1000) - 10) * 9999 // 990)},
}
