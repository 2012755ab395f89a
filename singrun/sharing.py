"""What of the host is seen inside: the table of mounts for one launch."""

import os

from singrun.identity import Caller
from singrun.mounts import Bind, BindUnlessSeen, Fresh, Link, Mount
from singrun.request import Request

_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/localtime")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  the very directories are meant
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  likewise
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SYSTEM = ("bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "var")


def table(request: Request, caller: Caller, directory: str) -> list[Mount]:
    """Return the mounts in the order in which they are done.

    directory: the caller's current directory, "" if it has none.
    """
    kernel: list[Mount] = [Bind("/dev", "/dev", why="devices")]
    if request.contain:
        kernel = _contained_devices()
    kernel.append(Fresh("proc", "/proc") if request.pid else Bind("/proc", "/proc"))
    kernel.append(Bind("/sys", "/sys"))
    files = [Bind(f, f, why="the host's network and time") for f in _FILES if os.path.isfile(f)]
    wished = [Bind(s, t, why="--bind", read_only=ro) for s, t, ro in request.binds]
    if request.contain:
        directory = ""
    return [
        *kernel,
        *files,
        *_temporary(request.contain),
        *_home(request, caller),
        *_current(directory),
        *wished,
    ]


def home(request: Request, caller: Caller) -> str:
    """Return the home directory as seen inside."""
    return request.home[1] if request.home else caller.home


def _temporary(contain: bool) -> list[Mount]:
    names = [name for name in _TEMPORARY if os.path.isdir(name)]
    if contain:
        return [Fresh("tmpfs", name, why="--contain", mode="1777") for name in names]
    return [Bind(name, name, why="temporary files") for name in names]


def _home(request: Request, caller: Caller) -> list[Mount]:
    """Return the caller's home; one that is another's (daemon has /usr/sbin) is not shared.

    Ids are as this user namespace shows them, so "mine" is geteuid(2).
    """
    if request.no_home:
        return []
    if request.home:
        return [Bind(request.home[0] or caller.home, request.home[1], why="--home")]
    path = caller.home
    if path in ("", "/") or not os.path.isdir(path) or os.stat(path).st_uid != os.geteuid():
        return []
    if request.contain:
        return [Fresh("tmpfs", path, why="--contain", mode="0700")]
    return [BindUnlessSeen(path, path, why="home")]


def _current(directory: str) -> list[Mount]:
    """Return the current directory; below a system directory only if the image has none such."""
    top, _, below = directory.lstrip("/").partition("/")
    if not top or (top in _SYSTEM and not below):
        return []
    bind = BindUnlessSeen(".", directory, why="current directory")
    bind.unless_there = top in _SYSTEM
    return [bind]


def _contained_devices() -> list[Mount]:
    """Return a /dev with what every program may expect, and the caller's terminals."""
    names = [*_DEVICES, "ptmx", "pts"]
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    return [
        Fresh("tmpfs", "/dev", why="--contain", mode="0755"),
        *(Bind(f"/dev/{n}", f"/dev/{n}") for n in names if os.path.exists(f"/dev/{n}")),
        Fresh("tmpfs", _SHARED_MEMORY, mode="1777"),
        *(Link(text, f"/dev/{name}") for name, text in links.items()),
    ]
