"""Mounts paths and drivers of the host in the tree while sections are executed: --bind, --nv.

The builder mounts them in its own namespace, which the container's is a copy of. Their places in
the tree are opened by descriptor, so no link leads a mount elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from singbuild.errors import HostError, UsageError
from singbuild.tree import chroot
from singbuild.tree.rootfs import Rootfs
from singrun import syscalls
from singrun.config import read as site
from singrun.errors import RunError
from singrun.hardware.drivers import APPENDED_DIRECTORIES, Drivers
from singrun.mounts import binds, rows
from singrun.mounts.root import Root
from singrun.request import HardwareOptions
from singrun.syscalls import MNT_DETACH, MS_BIND, MS_NODEV, MS_NOSUID, MS_REC

OWN = ("/dev", "/proc", "/sys")  # a section has others than the image


@dataclass(frozen=True)
class Bind:
    """A path of the host that is seen at another one in the tree."""

    source: str
    target: str
    read_only: bool = False

    @property
    def word(self) -> str:
        """Return it as --bind has it."""
        return f"{self.source}:{self.target}" + (":ro" if self.read_only else "")


@dataclass(frozen=True)
class HostParts:
    """What sections see of the host, as the command line says. drivers: "nv" or "rocm"."""

    binds: tuple[Bind, ...] = ()
    drivers: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Return each as an option says it, for the record of the build."""
        return [*(each.word for each in self.binds), *(f"--{name}" for name in self.drivers)]


def parsed(words: Sequence[str], mounts: Sequence[str]) -> tuple[Bind, ...]:
    """Return what --bind and --mount say, as `singrun` reads them. Raises UsageError."""
    parsed_binds = []
    try:
        for option in [o for word in words for o in binds.parse(word)] + [
            o for text in mounts for o in binds.parse_mount(text)
        ]:
            if option.directory:
                raise RunError(
                    f"Cannot bind a directory of the image {option.source} in a build",
                    remedy="Unpack it first, or copy what you need with %files.",
                )
            if any(PurePosixPath(option.target).is_relative_to(place) for place in OWN):
                raise RunError(
                    f"Cannot bind on {option.target} in a build",
                    why="Sections have a /dev, /proc and /sys of their own.",
                )
            parsed_binds.append(Bind(option.source, option.target, option.read_only))
    except RunError as error:
        raise UsageError(error.what, why=error.why, remedy=error.remedy) from None
    return tuple(parsed_binds)


@contextlib.contextmanager
def lent(rootfs: Rootfs, parts: HostParts) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Mount the parts in the tree for the time of a with-block.

    Yields variables, each with a directory to append to its value, and paths of devices that
    /dev shall have. Raises HostError where nothing may be mounted.
    """
    if parts.words() and not chroot.may_mount():
        raise HostError(
            f"{parts.words()[0]} cannot be used in a section",
            why="Nothing may be mounted here.",
            remedy="Build as root, or where user namespaces are allowed.",
        )
    with contextlib.ExitStack() as stack:
        directories, devices = _drivers(rootfs, parts.drivers, stack)
        for each in parts.binds:
            source = Path(each.source)
            stack.enter_context(bound(rootfs, each.target, source, read_only=each.read_only))
        yield directories, devices


def _drivers(
    rootfs: Rootfs, names: Sequence[str], stack: contextlib.ExitStack
) -> tuple[dict[str, str], list[str]]:
    """Bind the libraries and programs of the host's drivers, as `singrun --nv` does."""
    if not names:
        return {}, []
    options, devices = HardwareOptions(), []
    for name in names:
        setattr(options, name, True)
    try:
        mounts = Drivers(options, site()).rows(Root(str(rootfs.root)), "the tree")
    except RunError as error:
        raise HostError(error.what, why=error.why, remedy=error.remedy) from None
    for row in mounts:
        if isinstance(row, rows.Fresh):
            stack.enter_context(memory(rootfs, row.target))
        elif isinstance(row, rows.Bind) and row.target.startswith("/dev/"):
            devices.append(row.source)
        elif isinstance(row, rows.Bind) and not (
            isinstance(row, rows.BindUnlessSeen) and rootfs.exists(row.target)
        ):
            stack.enter_context(bound(rootfs, row.target, Path(row.source), read_only=True))
    directories = {
        os.fsdecode(name): os.fsdecode(value) for name, value in APPENDED_DIRECTORIES.items()
    }
    return directories if mounts else {}, devices


@contextlib.contextmanager
def bound(rootfs: Rootfs, target: str, source: Path, *, read_only: bool = False) -> Iterator[None]:
    """Bind-mount a file or directory in the tree for a with-block, nodev and nosuid."""
    is_directory = stat.S_ISDIR(source.stat().st_mode)
    with _place(rootfs, target, file=not is_directory) as place:
        syscalls.mount(str(source), place, "", MS_BIND | MS_REC, "")
        with _opened(rootfs, target) as there:
            try:
                # Not by mount(2), which with MS_BIND takes no other flag than MS_REC.
                attributes = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID
                attributes |= syscalls.MOUNT_ATTR_RDONLY if read_only else 0
                flags = syscalls.AT_RECURSIVE
                syscalls.mount_setattr(syscalls.AT_FDCWD, there, flags, attr_set=attributes)
                yield
            finally:
                syscalls.umount2(there, MNT_DETACH)


@contextlib.contextmanager
def memory(rootfs: Rootfs, target: str) -> Iterator[None]:
    """Mount an empty tmpfs in the tree for the time of a with-block."""
    with _place(rootfs, target, file=False) as place:
        syscalls.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        with _opened(rootfs, target) as there:
            try:
                yield
            finally:
                syscalls.umount2(there, MNT_DETACH)


@contextlib.contextmanager
def _place(rootfs: Rootfs, path: str, *, file: bool) -> Iterator[str]:
    """Yield the host's path of a mount point in the tree; one made here is removed again."""
    missing = []
    for each in (*reversed(PurePosixPath(path).parents), PurePosixPath(path)):
        if rootfs.status(each) is None:
            missing.append(each)
    if missing:
        rootfs.write(path, "") if file else rootfs.mkdir(path)
    opened = rootfs.open(path) if file else None
    try:
        if opened:
            yield f"/proc/self/fd/{opened.fileno()}"
        else:
            with rootfs.directory(path) as fd:
                yield f"/proc/self/fd/{fd}"
    finally:
        if opened:
            opened.close()
        for each in reversed(missing):
            # What a section has put into it is the image's, and stays: ENOTEMPTY.
            with contextlib.suppress(OSError):
                if file and each == missing[-1]:
                    rootfs.remove(each)
                else:
                    rootfs.rmdir(each)


@contextlib.contextmanager
def _opened(rootfs: Rootfs, path: str) -> Iterator[str]:
    """Yield a path of what is mounted at a place."""
    fd = os.open(rootfs.path(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
