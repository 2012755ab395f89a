"""The scratch: a fresh, sparse ext3 image, mounted where nobody else sees it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from singbuild import command, workspace
from singbuild.errors import HostError
from singrun import loop, syscalls

LARGEST = 256 << 30
INODES = 4_000_000
FULL = 2 << 20  # bytes: a file system with less left than this is called full


@contextlib.contextmanager
def scratch(work: Path, *, privileged: bool) -> Iterator[Path]:
    """Give an empty root directory for the time of a with-block, below ``work``.

    privileged: on a fresh ext3 image; else a directory, which only its owner can enter.
    """
    if privileged:
        make_scratch(work / "scratch.ext3")
        with mounted(work / "scratch.ext3", work / "rootfs") as root:
            yield root
    else:
        (work / "rootfs").mkdir(mode=0o755)
        yield work / "rootfs"


def make_scratch(path: Path) -> None:
    """Make a sparse ext3 image, as large as the disk under it has room, at most 256 GiB.

    It takes less than a megabyte until it is filled. Raises HostError.
    """
    size = min(workspace.free_bytes(path.parent), LARGEST) & ~0xFFFFF
    with path.open("xb") as file:
        file.truncate(size)
    inodes = min(INODES, size // 4096)
    argv = ["mke2fs", "-q", "-F", "-t", "ext3", "-b", "4096", "-I", "256", "-N", str(inodes)]
    command.run([*argv, "-m", "0", "-J", "size=16", path], package="e2fsprogs")


@contextlib.contextmanager
def mounted(image: Path, where: Path, *, read_only: bool = False) -> Iterator[Path]:
    """Mount an image at ``where``, which is made, for the time of a with-block.

    Belongs into a private mount namespace. An error inside the block becomes a
    HostError that says so when the disk under the image is full.
    """
    where.mkdir()
    fd = os.open(image, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    device, device_fd = loop.attach(fd, 0, read_only=read_only)
    try:
        # Nothing in the scratch outlives the build, so its order on disk does not matter.
        options = "noload" if read_only else "data=writeback,barrier=0,errors=remount-ro"
        flags = syscalls.MS_NOATIME | (syscalls.MS_RDONLY if read_only else 0)
        syscalls.mount(device, str(where), "ext3", flags, options)
    finally:
        os.close(device_fd)
        os.close(fd)
    try:
        yield where
    except Exception as error:
        _check_full(image.parent, where, error)
        raise
    finally:
        syscalls.umount2(str(where), syscalls.MNT_DETACH)


def _check_full(disk: Path, scratch: Path, error: Exception) -> None:
    """Say that the disk is full when that is why a build failed, whatever failed first."""
    if min(workspace.free_bytes(disk), workspace.free_bytes(scratch)) < FULL:
        raise HostError(
            f"the disk that holds the scratch, {disk.parent}, is full",
            why=str(error),
            remedy="Free some space; SINGBUILD_TMPDIR names another directory for the scratch.",
        ) from error


def write_back(where: Path) -> None:
    """Wait until all of a mounted scratch is on the disk. Raises HostError when a write failed."""
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
