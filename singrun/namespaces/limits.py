"""--memory, --cpus, --pids-limit and their like: a cgroup of version 2 for one launch.

cgroups(7), "Cgroups delegation": who may write to the cgroup above may make one there. So root
may, and a user below what systemd or a resource manager has handed to him. It is removed when
the program has ended; what a kill leaves behind, which is empty, goes with the next launch.
"""

import contextlib
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
    """A new one, with ``values`` in its files, by name. RunError says why it cannot be had."""

    def __init__(self, values: "dict[str, str]") -> None:
        above = _above()
        self._above = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
        self._sweep()
        self._name = f"{_PREFIX}{os.getpid()}"
        wanted = sorted({name.partition(".")[0] for name in values})
        self._enable(wanted, above)
        try:
            os.mkdir(self._name, dir_fd=self._above)
            self._fd = os.open(self._name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._above)
            for name, value in values.items():
                self._write(self._fd, name, value)
        except OSError as error:
            self.remove()
            what, why = "Cannot limit the program", f"{above}: {error.strerror}."
            raise RunError(what, why=why, remedy=_REMEDY) from None

    def enter(self) -> None:
        """Let this process, and all that comes of it, be in it."""
        self._write(self._fd, "cgroup.procs", "0")

    def remove(self) -> None:
        """Remove it, once nobody is in it."""
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._above)

    def _sweep(self) -> None:
        for name in os.listdir(self._above):
            if name.startswith(_PREFIX):
                with contextlib.suppress(OSError):  # somebody is in it
                    os.rmdir(name, dir_fd=self._above)

    def _enable(self, wanted: "list[str]", above: str) -> None:
        """Hand the controllers down, unless they are."""
        missing = set(wanted) - set(_read(f"{above}/cgroup.controllers").split())
        if missing:
            what = f"Cannot limit {' and '.join(sorted(missing))} of the program"
            why = f"{above} has no such controller of cgroups version 2."
            raise RunError(what, why=why, remedy=_REMEDY)
        have = _read(f"{above}/cgroup.subtree_control").split()
        for name in [name for name in wanted if name not in have]:
            try:
                self._write(self._above, "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                what, why = f"Cannot limit {name} of the program", f"{above}: {error.strerror}."
                raise RunError(what, why=why, remedy=_REMEDY) from None

    @staticmethod
    def _write(directory: int, name: str, value: str) -> None:
        fd = os.open(name, os.O_WRONLY, dir_fd=directory)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _above() -> str:
    """Return the directory of the cgroup in which ours shall be: the one above the caller's.

    The caller's own holds processes, and may have none that are limited below it.
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
    """Return the files of a cgroup, and what is written to them, for options and their values."""
    found: dict[str, str] = {}
    for option, value in limits.items():
        try:
            found |= _FILES[option](value)
        except (ValueError, OverflowError):
            remedy = "Say numbers; of bytes also with K, M, G or T."
            raise RunError(f"Cannot understand --{option} {value}", remedy=remedy) from None
    if "memory-swap" in limits and limits["memory-swap"] != "-1":
        if "memory" not in limits:
            raise RunError("Cannot use --memory-swap alone", remedy="Say --memory, too.")
        swap = _bytes(limits["memory-swap"]) - _bytes(limits["memory"])
        found["memory.swap.max"] = str(max(swap, 0))
    return found


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
