"""Executes programs of the image in the image, with /proc, /sys and /dev in place.

Mounts are made in the caller's mount namespace, which must be a private one
(``namespace.py``); they stand only while the program executes. Who may not mount gets
devices in a directory instead, and nothing in /proc and /sys.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from singbuild import command
from singbuild.privilege import capabilities
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
APT = ".singbuild-apt"  # in /dev, which goes when the program has ended
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
    apt = {"APT_CONFIG": f"/dev/{APT}"} if has_one_id() else {}
    return ENVIRONMENT | passed | apt | dict(extra or {})


def has_one_id() -> bool:
    """Whether there is no other user here to become: user_namespaces(7)."""
    return Path("/proc/self/uid_map").read_text().split()[2:] == ["1"]


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


def interactive(root: Path, argv: Sequence[str], *, env: Mapping[str, str]) -> None:
    """Execute ``argv`` likewise, on the caller's terminal. env: added to ``environment()``."""
    with furnished(root):
        command.interactive(["chroot", str(root), *argv], env=environment(env))


@contextlib.contextmanager
def furnished(root: Path) -> Iterator[None]:
    """Give ``root`` /proc, /sys and a /dev of its own, for the time of a with-block.

    Where nothing may be mounted, /proc and /sys are empty.
    """
    with contextlib.ExitStack() as stack:
        for name in ("proc", "sys", "dev"):
            _mount_point(root / name)
        mounts = may_mount()
        stack.enter_context(_kernel(root) if mounts else _aside(root / "dev"))
        for name in DEVICES if mounts or capabilities.has(capabilities.MKNOD) else ("null",):
            # An empty file would be taken for a source of zeros or random numbers.
            (root / "dev" / name).touch()
            stack.enter_context(bound(name, root / "dev" / name))
        for name, mode in (("pts", 0o755), ("shm", 0o1777)):
            (root / "dev" / name).mkdir()
            (root / "dev" / name).chmod(mode)
        if mounts:
            options = "newinstance,ptmxmode=0666"
            stack.enter_context(_mounted("devpts", root / "dev/pts", "devpts", MS_NOSUID, options))
        for name, target in LINKS.items():
            (root / "dev" / name).symlink_to(target)
        # apt would become a user of its own for downloads, and checks whether it did.
        if has_one_id():
            (root / "dev" / APT).write_text('APT::Sandbox::User "root";\n')
        yield


@contextlib.contextmanager
def bound(name: str, where: Path) -> Iterator[None]:
    """Let an empty file be the host's device of a name, for the time of a with-block.

    Who may not mount makes one in its place; who may not do that either has the empty file.
    """
    if may_mount():
        with _mounted(f"/dev/{name}", where, "", MS_BIND):
            yield
        return
    if capabilities.has(capabilities.MKNOD):
        where.unlink()
        os.mknod(where, stat.S_IFCHR, Path(f"/dev/{name}").stat().st_rdev)
    where.chmod(0o666)
    yield


def may_mount() -> bool:
    """Whether this process may mount: ``namespace.py`` takes that from one that shall not."""
    return capabilities.has(capabilities.SYS_ADMIN)


@contextlib.contextmanager
def _kernel(root: Path) -> Iterator[None]:
    """Mount what shows the kernel, and an empty /dev."""
    quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
    with (
        _mounted("proc", root / "proc", "proc", quiet),
        _sysfs(root / "sys", quiet | MS_RDONLY),
        _mounted("tmpfs", root / "dev", "tmpfs", MS_NOSUID, "mode=0755"),
    ):
        yield


@contextlib.contextmanager
def _aside(dev: Path) -> Iterator[None]:
    """Have an empty directory in the place of the tree's own, which comes back unchanged."""
    with tempfile.TemporaryDirectory(dir=dev.parent.parent, ignore_cleanup_errors=True) as place:
        own, used = Path(place, "own"), Path(place, "used")
        dev.rename(own)
        dev.mkdir(mode=0o755)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):  # the program removed it
                dev.rename(used)
            own.rename(dev)


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
