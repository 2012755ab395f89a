"""Executes programs of the image in the image, with /proc, /sys and /dev in place.

Mounts are made in the caller's mount namespace, which must be a private one
(``namespace.py``); they stand only while the program executes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from singbuild import command
from singrun import syscalls
from singrun.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LC_ALL": "C",
    "LANG": "C",
    "TZ": "UTC0",
    "TERM": "dumb",
    "PYTHONHASHSEED": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a program in the image sees: of the host's, only proxies and the epoch."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.lower().endswith("_proxy") or name == "SOURCE_DATE_EPOCH"
    }
    return ENVIRONMENT | passed | dict(extra or {})


def call(
    root: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> command.Completed:
    """Execute ``argv`` with ``root`` as its root directory, and return how it ended.

    env: added to ``environment()``. The program looks itself up on the image's PATH;
    127 means that it is not there.
    """
    with furnished(root):
        words = ["chroot", str(root), *argv]
        return command.call(words, env=environment(env), on_line=on_line, own_session=True)


@contextlib.contextmanager
def furnished(root: Path) -> Iterator[None]:
    """Mount /proc, /sys and a /dev of its own in ``root``, for the time of a with-block."""
    with contextlib.ExitStack() as stack:
        for name in ("proc", "sys", "dev"):
            _mount_point(root / name)
        quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
        stack.enter_context(_mounted("proc", root / "proc", "proc", quiet))
        stack.enter_context(_sysfs(root / "sys", quiet | MS_RDONLY))
        stack.enter_context(_mounted("tmpfs", root / "dev", "tmpfs", MS_NOSUID, "mode=0755"))
        for name in DEVICES:
            (root / "dev" / name).touch()
            stack.enter_context(_mounted(f"/dev/{name}", root / "dev" / name, "", MS_BIND))
        for name, mode in (("pts", 0o755), ("shm", 0o1777)):
            (root / "dev" / name).mkdir()
            (root / "dev" / name).chmod(mode)
        stack.enter_context(
            _mounted("devpts", root / "dev/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666")
        )
        for name, target in LINKS.items():
            (root / "dev" / name).symlink_to(target)
        yield


@contextlib.contextmanager
def _sysfs(where: Path, flags: int) -> Iterator[None]:
    """Mount a sysfs, or bind the host's: only the owner of the network may have another."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_mounted("sysfs", where, "sysfs", flags))
        except PermissionError:
            stack.enter_context(_mounted("/sys", where, "", MS_BIND | MS_REC))
        yield


@contextlib.contextmanager
def _mounted(source: str, target: Path, kind: str, flags: int, data: str = "") -> Iterator[None]:
    syscalls.mount(source, str(target), kind, flags, data)
    try:
        yield
    finally:
        # Detached at once: a program that is just being killed may still hold it.
        syscalls.umount2(str(target), syscalls.MNT_DETACH)


def _mount_point(where: Path) -> None:
    """Make sure of a directory: an image's link in its place must not lead a mount elsewhere."""
    if where.is_symlink():
        where.unlink()
    where.mkdir(mode=0o755, exist_ok=True)
