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
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """Mount a scratch image read-write at ``where`` for the time of a with-block.

    Belongs into a private mount namespace. When the block ends well, everything
    is on the disk: a write that failed late raises HostError.
    """
    where.mkdir()
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    device, device_fd = loop.attach(fd, 0, read_only=False)
    try:
        # Nothing in the scratch outlives the build, so its order on disk does not matter.
        options = "data=writeback,barrier=0,errors=remount-ro"
        syscalls.mount(device, str(where), "ext3", syscalls.MS_NOATIME, options)
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
