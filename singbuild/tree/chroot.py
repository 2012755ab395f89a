"""Executes programs of the image in the image, and programs of the host on it, in containers.

What a container is stands in ``container_init.py``: it sees nothing of the builder. Where nothing
may be mounted there is none: the image is a plain chroot, with devices in a directory and
nothing in /proc and /sys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import marshal
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from singbuild import command
from singbuild.privilege import capabilities, container_init, probes
from singbuild.privilege.container_init import DEVICES, LINKS
from singbuild.tree import surroundings
from singrun import syscalls

User = tuple[int, int, tuple[int, ...]]
"""A user's id, group and further groups."""
APT = ".singbuild-apt"  # in /dev, which goes when the program has ended
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/root",
    "USER": "root",
    "LC_ALL": "C",
    "LANG": "C",
    "TZ": "UTC0",
    "TERM": "dumb",
    # Before 3.11 sets stand in bytecode in the order of their hashes:
    # https://github.com/python/cpython/issues/81777
    "PYTHONHASHSEED": "0",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_OFFLINE": "1",  # systemctl would look at /proc/1 for it, which is closed
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that a program in the image sees: of the host's, only proxies."""
    passed = {n: value for n, value in os.environ.items() if n.lower().endswith("_proxy")}
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
    directory: str = "/",
    user: User | None = None,
    devices: Sequence[str] = (),
    offline: bool = False,
) -> command.Completed:
    """Execute ``argv`` with ``root`` as its root directory, and return how it ended.

    env: added to ``environment()``; directory: where it works, in the tree; user: who it is, root
    without one; devices: those of the host that it sees in /dev too; offline: it reaches no
    network, where anything may be mounted. The program is looked up on the image's PATH; 127
    means that it is not there.
    """
    words = ("chroot", os.fspath(root), *argv)
    variables = environment(env) | _clock(root)
    about = {"directory": directory, "user": user, "devices": list(devices), "offline": offline}
    with _job(root, argv, variables, **about) as (launch, job):  # type: ignore[arg-type]
        done = command.call(
            launch, env=_of_python(), on_line=on_line, own_session=True, pass_fds=(job,)
        )
    return dataclasses.replace(done, argv=words)


def _clock(root: Path) -> dict[str, str]:
    """Return the variables of another clock, where programs of the tree can take it."""
    around = surroundings.now
    if not around.clock:
        return {}
    if not around.takes_clock(root):
        variables = {"LC_ALL": "C", "PATH": PATH} | around.variables
        with _job(root, ["/bin/sh", "-c", "date +%s"], variables) as (launch, job):
            done = command.call(launch, env=_of_python(), own_session=True, pass_fds=(job,))
        around.note_attempt(root, done.status, done.tail)
    return around.variables if around.takes_clock(root) else {}


def interactive(root: Path, argv: Sequence[str], *, env: Mapping[str, str]) -> None:
    """Execute ``argv`` likewise, on the caller's terminal. env: added to ``environment()``."""
    with _job(root, argv, environment(env)) as (launch, _):
        command.interactive(launch, env=_of_python())


def host(
    root: Path,
    argv: Sequence[command.Word],
    *,
    env: Mapping[str, str],
    directory: Path,
    writable: Sequence[Path] = (),
    furnished: bool = False,
    plain: bool = False,
    on_line: Callable[[str], None] | None = None,
) -> command.Completed:
    """Execute a program of the host on the tree at ``root``, and return how it ended.

    It sees the host read-only, wherever a link in the tree leads, but for the tree and
    ``writable``. env: the complete environment; directory: where it works; furnished: the tree
    gets /proc and /sys, for programs of its own; plain: it executes nothing of the tree, and keeps
    the host's /dev and /proc. Where nothing may be mounted it is executed as it is. Raises
    HostError.
    """
    if not may_mount():
        return command.call(argv, env=env, cwd=directory, on_line=on_line)
    words = tuple(os.fspath(word) for word in argv)
    command.check_program(words[0], env)
    about = {
        "directory": str(directory),
        "writable": [str(path) for path in writable],
        "furnished": furnished,
        "plain": plain,
    }
    with _job(root, words, env, about) as (launch, job):
        done = command.call(
            launch, env=_of_python(), on_line=on_line, own_session=True, pass_fds=(job,)
        )
    return dataclasses.replace(done, argv=words)


def confine(
    argv: Sequence[command.Word],
    directory: Path,
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
) -> command.Completed:
    """Execute a program of the host that reads what a stranger wrote; return how it ended.

    It is root, sees the host read-only but for ``directory``, where it works, and none of the
    host's networks, processes and sockets. Where the kernel gives no namespaces it is executed
    as it is. env: the complete environment. Raises HostError.
    """
    words = tuple(os.fspath(word) for word in argv)
    command.check_program(words[0], env)
    become_root = [] if may_mount() else ["unshare", "--map-root-user"]
    if become_root and probes.user_namespace_refused():
        # Containers may give a user namespace, and no mounts in it: dnf is content with that.
        if os.geteuid() == 0 or command.call([*become_root, "true"]).status:
            become_root = []
        return command.call([*become_root, *words], env=env, on_line=on_line)
    about = {"directory": str(directory), "writable": [], "furnished": False, "plain": False}
    variables = {"TMPDIR": "/dev/shm"} | dict(env)  # noqa: S108 - its own
    with _job(directory, words, variables, about, mounts=True, offline=True) as (launch, job):
        done = command.call(
            [*become_root, *launch],
            env=_of_python(),
            on_line=on_line,
            own_session=True,
            pass_fds=(job,),
        )
    return dataclasses.replace(done, argv=words)


@contextlib.contextmanager
def _job(
    root: Path,
    argv: Sequence[str],
    env: Mapping[str, str],
    host: Mapping[str, Any] | None = None,
    *,
    mounts: bool | None = None,
    directory: str = "/",
    user: User | None = None,
    devices: Sequence[str] = (),
    offline: bool = False,
) -> Iterator[tuple[list[str], int]]:
    """Yield the command that executes ``argv`` in a container, and the descriptor of its job.

    The job is a file in memory, since argument lists and environments can be read in /proc.
    mounts: whether the process that executes it may mount; by default, whether this one may.
    """
    mounts = may_mount() if mounts is None else mounts
    if host is None:
        for name in ("proc", "sys", "dev"):
            _mount_point(root / name)
    job = {
        "root": os.fspath(root),
        "argv": list(argv),
        "env": dict(env),
        "mounts": mounts,
        "files": _files(),
        "devices": list(devices),
        "host": host,
        "directory": directory,
        "user": user,
        "offline": offline,
        "hostname": surroundings.now.hostname,
    }
    file = os.memfd_create("singbuild", 0)  # read after execve(2), so not close-on-exec
    try:
        os.write(file, marshal.dumps(job))
        os.lseek(file, 0, os.SEEK_SET)
        with contextlib.nullcontext() if mounts else without_mounts(root):
            yield [sys.executable, "-IS", container_init.__file__, str(file)], file
    finally:
        os.close(file)


def _of_python() -> dict[str, str]:
    """Return the variables that a Python outside the system's directories needs: ld.so(8)."""
    place = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": place} if place else {}


def _files() -> dict[str, bytes]:
    """Return files of /dev, name to content."""
    # apt would become a user of its own for downloads, and checks whether it did.
    apt = {APT: b'APT::Sandbox::User "root";\n'} if has_one_id() else {}
    return {**apt, **surroundings.now.files}


@contextlib.contextmanager
def furnished(root: Path) -> Iterator[None]:
    """Mount a /dev over the tree's for the time of a with-block, for programs of the host.

    In the caller's mount namespace, which must be a private one (``namespace.py``).
    """
    for name in ("proc", "sys", "dev"):
        _mount_point(root / name)
    if not may_mount():
        with without_mounts(root):
            yield
        return
    container_init.mount_dev(f"{root}/dev", {})
    try:
        yield
    finally:  # with all that is mounted in it
        syscalls.umount2(f"{root}/dev", syscalls.MNT_DETACH)


@contextlib.contextmanager
def without_mounts(root: Path) -> Iterator[None]:
    """Put a directory in the place of the tree's /dev, with what can be made without mounts."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_aside(root / "dev"))
        for name in DEVICES if capabilities.has(capabilities.MKNOD) else ("null",):
            # An empty file would be taken for a source of zeros or random numbers.
            (root / "dev" / name).touch()
            stack.enter_context(bound(name, root / "dev" / name))
        for name, mode in (("pts", 0o755), ("shm", 0o1777)):
            (root / "dev" / name).mkdir()
            (root / "dev" / name).chmod(mode)
        for name, target in LINKS.items():
            (root / "dev" / name).symlink_to(target)
        for name, content in _files().items():
            (root / "dev" / name).write_bytes(content)
        yield


@contextlib.contextmanager
def bound(name: str, where: Path) -> Iterator[None]:
    """Make an empty file the host's device of a name for the time of a with-block: a bind mount.

    Where nothing may be mounted, mknod(2) makes one; without CAP_MKNOD the file stays empty.
    """
    if may_mount():
        container_init.lend_device(name, str(where))
        try:
            yield
        finally:
            syscalls.umount2(str(where), syscalls.MNT_DETACH)
        return
    if capabilities.has(capabilities.MKNOD):
        where.unlink()
        os.mknod(where, stat.S_IFCHR, Path(f"/dev/{name}").stat().st_rdev)
    where.chmod(0o666)
    yield


def may_mount() -> bool:
    """Whether this process may mount: in mode chroot ``namespace.py`` drops the capability."""
    return capabilities.has(capabilities.SYS_ADMIN)


@contextlib.contextmanager
def _aside(dev: Path) -> Iterator[None]:
    """Move the tree's /dev aside for the time of a with-block, and put an empty one there."""
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


def _mount_point(where: Path) -> None:
    """Make a directory to mount on; a link of the image there would lead the mount elsewhere."""
    if where.is_symlink():
        where.unlink()
    where.mkdir(mode=0o755, exist_ok=True)
