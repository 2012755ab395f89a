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
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from singbuild.workspace import remove_tree
from singrun import syscalls
from singrun.mounts import loop, mountinfo

MOST = 8  # images below one tree: each is looked up for each name
_READ_AHEAD = 1 << 30  # bytes: what was read first shall still be there when it is needed
_OPTIONS = {
    "index": "on",  # else a hard link that is written to becomes a file of its own
    "redirect_dir": "on",  # else rename(2) of a directory of the images fails with EXDEV
    "xino": "on",  # else stat(2) shows several devices, and tools cross or skip them
}
_MODULE = "/sys/module/overlay/parameters"
_DEFAULTS = {"index": "index", "redirect_dir": "redirect_dir", "xino": "xino_auto"}


class Layers:
    """The images below one tree, and what is written over them.

    root: where the scratch is mounted, and the tree shall be; base: names the topmost image in the
    cache, "" without one; changes: the directory of what was written since, None while no image
    is mounted.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.base, self.depth = root, "", 0
        self.changes: Path | None = None
        scratch = root.parent / "layers" / "scratch"
        self._upper, self._work = scratch / "upper", scratch / "work"
        self._mounts = contextlib.ExitStack()

    def close(self) -> None:
        """Unmount all; the scratch stays."""
        self._mounts.close()

    def unmount(self) -> None:
        """Unmount what ``mount`` mounted, and leave the tree as empty as it was."""
        if self.changes:
            self.close()
            self._clear()
        self.base, self.depth, self.changes = "", 0, None

    def _clear(self) -> None:
        for directory in (self._upper, self._work):
            remove_tree(self.root / directory.name)

    def mount(self, images: Sequence[Path], base: str = "") -> bool:
        """Mount images, topmost first, below the empty tree; return whether they could be.

        base: names the first in the cache. Their files are read ahead.
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
                stack.enter_context(_bound(self.root, self._upper.parent))
                self._upper.mkdir()
                self._work.mkdir()
                # Before the mount, at which the kernel reads them.
                _copy_metadata(below[0], self._upper)
                stack.enter_context(_overlay(below, self._upper, self._work, self.root))
                stack.enter_context(_read_ahead(below))
            except OSError:  # a kernel without loop devices, or with another overlay
                pass
            else:
                self._mounts.push(stack.pop_all())
                self.changes, self.base, self.depth = self._upper, base, len(images)
                return True
        self._clear()
        return False

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
    place.mkdir(parents=True, exist_ok=True)
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
    place.mkdir(exist_ok=True)
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
    super_options = [
        words[-1] for words in lines if mountinfo.plain(words[4]) == os.fsencode(place)
    ][-1]
    options = dict(word.partition("=")[::2] for word in os.fsdecode(super_options).split(","))
    for name, value in _OPTIONS.items():
        default = Path(_MODULE, _DEFAULTS[name]).read_text().strip()  # what it has is not shown
        if options.get(name, "on" if default == "Y" else "off") != value:
            raise OSError(f"overlayfs: no {name}={value}: {place}")


@contextlib.contextmanager
def _read_ahead(trees: Sequence[Path]) -> Iterator[None]:
    """Have the kernel read what trees hold into its memory, while a with-block does other things.

    The seal will read all of it, and reading through a loop device takes as long as all else that
    it does.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_read, args=(trees, ended), name="read ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _read(trees: Sequence[Path], ended: threading.Event) -> None:
    budget = _READ_AHEAD
    waiting = [os.fspath(tree) for tree in trees]
    while waiting and budget > 0 and not ended.is_set():
        # It is only read early: whatever is wrong will be told by the seal.
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    budget -= entry.stat(follow_symlinks=False).st_size
                    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                    finally:
                        os.close(fd)


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
