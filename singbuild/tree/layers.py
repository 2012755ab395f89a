"""Mounts a tree over images by overlayfs(5): nothing is unpacked, and changes stay apart.

    images ── loop ──▶ read-only trees ┐
    the scratch's ``upper`` ───────────┴── overlayfs ──▶ the tree

Hard links and renamed directories work as on one file system; where the kernel's overlay cannot
do that, none is mounted. ``upper`` with those images below it is the tree again, so a snapshot of
it is as large as what was changed.
https://docs.kernel.org/filesystems/overlayfs.html
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from singrun import syscalls
from singrun.mounts import loop, mountinfo

MOST = 8  # images below one tree: each is looked up for each name
_OPTIONS = {
    "index": "on",  # else a hard link that is written to becomes a file of its own
    "redirect_dir": "on",  # else rename(2) of a directory of the images fails with EXDEV
    "xino": "on",  # else stat(2) shows several devices, and tools cross or skip them
}
_MODULE = "/sys/module/overlay/parameters"
_DEFAULTS = {"index": "index", "redirect_dir": "redirect_dir", "xino": "xino_auto"}


class Layers:
    """The images below one tree, and what is written over them.

    root: where the scratch is mounted, and the tree shall be; base: the topmost image's key in the
    cache, "" without one; changes: the directory of what was written since, None while no image
    is mounted.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.base, self.depth = root, "", 0
        self.changes: Path | None = None
        self._work = root.parent / "layers" / "scratch" / "work"
        self._mounts = contextlib.ExitStack()

    def close(self) -> None:
        """Unmount all; the scratch stays."""
        self._mounts.close()

    def mount(self, images: Sequence[Path], base: str = "") -> bool:
        """Mount images, topmost first, below the empty tree; return whether they could be.

        base: the cache's key of the first.
        """
        if self.changes or len(images) > MOST or not _is_empty(self.root):
            return False
        home = self.root.parent / "layers"
        with contextlib.ExitStack() as stack:
            try:
                below = [
                    stack.enter_context(_image(image, home / str(number)))
                    for number, image in enumerate(images)
                ]
                scratch = stack.enter_context(_bound(self.root, home / "scratch"))
                upper = scratch / "upper"
                upper.mkdir()
                self._work.mkdir()
                _copy_metadata(below[0], upper)  # before: the kernel reads it when it mounts
                stack.enter_context(_overlay(below, upper, self._work, self.root))
            except OSError:  # a kernel without loop devices, or with another overlay
                return False
            self._mounts.push(stack.pop_all())
        self.changes, self.base, self.depth = upper, base, len(images)
        return True

    def difference(self) -> Path | None:
        """Return the directory that with the images below it is the whole tree, if there is one.

        None once a hard link of theirs was written to: its other names are in the kernel's index.
        """
        if not self.base or self.depth >= MOST:
            return None
        index = os.listdir(self._work / "index")  # noqa: PTH208 - names alone
        # "#…" is what the kernel makes whiteouts of.
        return None if any(not name.startswith("#") for name in index) else self.changes


def are_known() -> bool:
    """Whether the kernel lists overlayfs: proc(5), "/proc/filesystems"."""
    return "\toverlay\n" in Path("/proc/filesystems").read_text()


def _is_empty(root: Path) -> bool:
    return {*os.listdir(root)} <= {"lost+found"}  # noqa: PTH208 - names alone


@contextlib.contextmanager
def _image(path: Path, place: Path) -> Iterator[Path]:
    """Mount an image read-only at ``place`` for the time of a with-block."""
    place.mkdir(parents=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, device_fd = loop.attach(fd, 0, read_only=True)
    finally:
        os.close(fd)
    flags = syscalls.MS_RDONLY | syscalls.MS_NOATIME | syscalls.MS_NODEV
    try:
        syscalls.mount(device, str(place), "ext3", flags)
    finally:
        os.close(device_fd)
    yield from _until_unmounted(place)


@contextlib.contextmanager
def _bound(directory: Path, place: Path) -> Iterator[Path]:
    """Bind-mount a directory at ``place``, from where it is seen when another is mounted on it."""
    place.mkdir()
    syscalls.mount(str(directory), str(place), "", syscalls.MS_BIND)
    yield from _until_unmounted(place)


@contextlib.contextmanager
def _overlay(below: Sequence[Path], upper: Path, work: Path, place: Path) -> Iterator[Path]:
    """Mount an overlay. Raises OSError where the kernel lacks one of ``_OPTIONS``."""
    with contextlib.ExitStack() as stack:
        # By descriptor: a path could have a colon or a comma.
        *lower, upper_name, work_name = (_opened(path, stack) for path in (*below, upper, work))
        options = {
            "lowerdir": ":".join(lower),
            "upperdir": upper_name,
            "workdir": work_name,
        } | _OPTIONS
        text = ",".join(f"{name}={value}" for name, value in options.items())
        syscalls.mount("singbuild", str(place), "overlay", syscalls.MS_NOATIME, text)
    try:
        _check_options(place)
    except OSError:
        syscalls.umount2(str(place), syscalls.MNT_DETACH)
        raise
    yield from _until_unmounted(place)


def _opened(path: Path, stack: contextlib.ExitStack) -> str:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _until_unmounted(place: Path) -> Iterator[Path]:
    try:
        yield place
    finally:
        syscalls.umount2(str(place), syscalls.MNT_DETACH)


def _check_options(place: Path) -> None:
    """Raise OSError unless the overlay has all options: the kernel drops those it cannot have."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    shown = [words[-1] for words in lines if mountinfo.plain(words[4]) == os.fsencode(place)][-1]
    options = dict(word.partition("=")[::2] for word in os.fsdecode(shown).split(","))
    for name, value in _OPTIONS.items():
        default = Path(_MODULE, _DEFAULTS[name]).read_text().strip()  # what it has is not shown
        if options.get(name, "on" if default == "Y" else "off") != value:
            raise OSError(f"overlayfs: no {name}={value}: {place}")


def _copy_metadata(source: Path, target: Path) -> None:
    """Copy the owner, mode, attributes and times of a directory to another one."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)
    for name in os.listxattr(source):
        # overlayfs's own notes on the layers that the image was written over.
        if name.startswith("trusted.overlay."):
            continue
        with contextlib.suppress(OSError):  # those of the host's policy
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
