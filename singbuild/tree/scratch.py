"""The scratch: a fresh, sparse ext3 image, mounted where nobody else sees it.

Where the directory for it is on a tmpfs, another tmpfs is mounted instead: ext3 over a loop
device over a tmpfs holds each page twice, in its own cache and in the file, and writing the
second copy takes longer than unpacking half of the first.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from singbuild import command, host, workspace
from singbuild.errors import HostError
from singrun import syscalls
from singrun.mounts import loop, mountinfo

LARGEST = 256 << 30
INODES = 4_000_000
FULL = 2 << 20  # bytes: a file system with less left than this is called full


@contextlib.contextmanager
def scratch(work: Path, *, privileged: bool) -> Iterator[Path]:
    """Yield an empty root directory below ``work``, for the time of a with-block.

    privileged: on a fresh ext3 image, or a tmpfs; else a directory, which only its owner can
    enter.
    """
    root = work / "rootfs"
    if not privileged:
        root.mkdir(mode=0o755)
        try:
            yield root
        except Exception as error:
            _check_full(work, root, error)
            raise
        finally:
            # Here, where the caller owns all of it: outside the user namespace files belong to
            # the subordinate ids.
            workspace.remove_tree(root)
    elif is_memory(work):
        with _mounted_memory(root):
            yield root
    else:
        make_scratch(work / "scratch.ext3")
        with mounted(work / "scratch.ext3", root):
            # The loop device has it open: the kernel frees it as soon as nothing is mounted, even
            # after SIGKILL, and nobody waits for that behind the image's own fsync(2).
            (work / "scratch.ext3").unlink()
            yield root


def holds_devices(directory: Path) -> bool:
    """Whether a device can be made and opened in a directory."""
    where = directory / "null"
    try:
        os.mknod(where, stat.S_IFCHR | 0o600, Path("/dev/null").stat().st_rdev)
    except PermissionError:
        return False
    try:
        # nodev lets devices be made, and not be opened: mount(8).
        os.close(os.open(where, os.O_WRONLY))
    except PermissionError:
        return False
    finally:
        where.unlink()
    return True


def make_scratch(path: Path) -> None:
    """Make a sparse ext3 image, as large as the disk under it has room, at most 256 GiB.

    It takes less than a megabyte until it is filled. Raises HostError.
    """
    size = min(host.free_bytes(path.parent), LARGEST) & ~0xFFFFF
    with path.open("xb") as file:
        file.truncate(size)
    inodes = min(INODES, size // 4096)
    argv = ["mke2fs", "-q", "-F", "-t", "ext3", "-b", "4096", "-I", "256", "-N", str(inodes)]
    # No blocks kept back for root, and a small journal: the scratch does not outlive the build.
    command.run([*argv, "-m", "0", "-J", "size=16", path], package="e2fsprogs")


@contextlib.contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """Mount an image at ``where``, which is made, for the time of a with-block.

    Belongs into a private mount namespace. An error inside the block becomes a
    HostError that says so when the disk under the image is full.
    """
    where.mkdir()
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, device_fd = loop.attach(fd, 0, read_only=False)
    finally:
        os.close(fd)
    try:
        # Nothing in the scratch outlives the build, so its order on disk does not matter.
        options = "data=writeback,barrier=0,errors=remount-ro"
        syscalls.mount(device, str(where), "ext3", syscalls.MS_NOATIME, options)
    finally:
        os.close(device_fd)
    with _in_use(where, image.parent):
        yield where


@contextlib.contextmanager
def _mounted_memory(where: Path) -> Iterator[None]:
    """Mount an empty tmpfs with as much room as the one that ``where`` is on has left."""
    where.mkdir()
    # The mode of a tmpfs is 1777 if nothing is said, and this becomes the image's root: tmpfs(5).
    options = f"size={host.free_bytes(where)},nr_inodes={INODES},mode=0755"
    syscalls.mount("singbuild", str(where), "tmpfs", syscalls.MS_NOATIME, options)
    with _in_use(where, where.parent):
        yield


def is_memory(directory: Path) -> bool:
    """Whether a directory is on a tmpfs, and that keeps all attributes (Linux 6.6 on)."""
    if mountinfo.kind_of(str(directory)) != "tmpfs":
        return False
    try:
        os.setxattr(directory, "user.singbuild", b"")
        os.removexattr(directory, "user.singbuild")
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _in_use(where: Path, disk: Path) -> Iterator[None]:
    """Unmount after a with-block. disk: a directory where ``where`` gets its room from."""
    try:
        yield
    except Exception as error:
        _check_full(disk, where, error)
        raise
    finally:
        syscalls.umount2(str(where), syscalls.MNT_DETACH)


def _check_full(disk: Path, scratch: Path, error: Exception) -> None:
    """Say that the disk is full when that is why a build failed, whatever failed first."""
    if min(host.free_bytes(disk), host.free_bytes(scratch)) < FULL:
        raise HostError(
            f"the disk that holds the scratch, {disk.parent}, is full",
            why=str(error),
            remedy="Free some space; SINGBUILD_TMPDIR names another directory for the scratch.",
        ) from error


@contextlib.contextmanager
def flushing_in_background(where: Path) -> Iterator[None]:
    """Write a scratch to the disk, syncfs(2), while a with-block reads it.

    Raises HostError at the block's end when a write failed: what it read may not have been
    what the scratch should hold.
    """
    with ThreadPoolExecutor(1, "sync") as thread:
        sync = thread.submit(_sync, where)
        try:
            yield
        finally:
            sync.result()


def _sync(where: Path) -> None:
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syscalls.syncfs(fd)
    except OSError as error:
        raise HostError(
            "the scratch could not be written to the disk",
            why=f"{error.strerror}: the disk under it is full or failing",
            remedy="Free some space, or set SINGBUILD_TMPDIR to a larger disk.",
        ) from error
    finally:
        os.close(fd)
