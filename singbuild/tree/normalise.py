"""Takes away what differs between two honest runs of the same recipe.

Each rule says what it removes or pins and why; nothing that a program in the
image needs at run time is touched. Times are not the business of this module:
the seal clamps them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from singbuild import workspace
from singbuild.errors import ImageError
from singbuild.tree.rootfs import Rootfs

INDICES = "/var/lib/apt/lists"
EMPTIED_DIRECTORIES = {
    "/tmp": "temporary files",  # noqa: S108 (inside the image)
    "/var/tmp": "temporary files",  # noqa: S108
    "/run": "what a running system would write",
    INDICES: "package indices, which change by the day",
    "/var/cache/apt": "package files and an index with times in it",
    "/var/cache/dnf": "package files and indices",
    "/var/cache/yum": "package files and indices",
    "/var/cache/apk": "package files and indices",
    "/var/log/apt": "times of installation",
    "/var/log/journal": "times",
    "/root/.cache": "what tools fetched or computed while they worked",
}
REMOVED = {
    "/var/cache/ldconfig/aux-cache": "inode numbers and times of libraries",
    "/var/lib/systemd/random-seed": "random on purpose",
    "/var/lib/dbus/machine-id": "random on purpose",
    "/var/lib/dpkg/status-old": "the package database before the last change",
    "/var/lib/dpkg/available-old": "the same",
    "/var/cache/debconf/config.dat-old": "the answers before the last change",
    "/var/cache/debconf/templates.dat-old": "the same",
    "/etc/passwd-": "the file before the last change",
    "/etc/group-": "the same",
    "/etc/shadow-": "the same",
    "/etc/gshadow-": "the same",
    "/etc/.pwd.lock": "a lock",
    "/var/lib/dpkg/lock": "a lock",
    "/root/.bash_history": "what was typed",
}
LOGS = "/var/log"
SHADOW = "/etc/shadow"
MACHINE_ID = "/etc/machine-id"

PYC_HEADER = struct.Struct("<4sIII")  # magic, flags, mtime of the source, its size: PEP 552


def quieten(rootfs: Rootfs, epoch: int, *, indices: bool = False) -> None:
    """Make the tree as another honest run would have left it. epoch: as the seal gets it.

    indices: keep apt's package indices, in an image that is there to be added to.
    """
    for directory in EMPTIED_DIRECTORIES:
        if directory != INDICES or not indices:
            _empty(rootfs, directory)
    for name in REMOVED:
        where = rootfs.path(name, follow=False)
        if where.is_file() or where.is_symlink():
            where.unlink()
    for found in _entries(rootfs, LOGS):
        _truncate_logs(found)
    if rootfs.path(MACHINE_ID, follow=False).is_file():
        rootfs.write(MACHINE_ID, "", 0o444)
    _pin_password_dates(rootfs.path(SHADOW), epoch)
    for path in _walk(rootfs.root, ".pyc"):
        _pin_bytecode(path, epoch)


def _empty(rootfs: Rootfs, directory: str) -> None:
    for found in list(_entries(rootfs, directory)):
        _remove(found)


def _entries(rootfs: Rootfs, directory: str) -> Iterator[Path]:
    """What a directory of the image holds; nothing when a link leads to another one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ImageError):
        where = rootfs.path(directory)
        if where == rootfs.root / directory.lstrip("/"):
            yield from where.iterdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        workspace.remove_tree(path)
    else:
        path.unlink()


def _truncate_logs(found: Path) -> None:
    """Empty the logs but keep the files: programs expect their owners and modes."""
    for path in _walk(found) if found.is_dir() and not found.is_symlink() else [found]:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            path.unlink()  # its other name is no log
        elif stat.S_ISREG(status.st_mode):
            os.truncate(path, 0)


def _pin_password_dates(path: Path, epoch: int) -> None:
    """Let no password have been changed after the epoch; the field is in days: shadow(5)."""
    if not path.is_file():
        return
    lines = [line.split(b":") for line in path.read_bytes().splitlines()]
    for fields in lines:
        if len(fields) > 2 and fields[2].isdigit():
            fields[2] = b"%d" % min(int(fields[2]), epoch // 86400)
    path.write_bytes(b"".join(b":".join(fields) + b"\n" for fields in lines))


def _walk(directory: Path, suffix: str = "") -> Iterator[Path]:
    """Every regular file below a directory, without following links; however deep it is.

    suffix: what its name ends in.
    """
    waiting = [str(directory)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)


def _pin_bytecode(path: Path, epoch: int) -> None:
    """Let a module's bytecode know the time that the seal will give its source.

    Python takes bytecode as stale when it names another time than the source
    has; in an image that cannot be written it would compile anew at every start.
    """
    with path.open("r+b") as file:
        header = file.read(PYC_HEADER.size)
        if len(header) < PYC_HEADER.size:
            return
        magic, flags, mtime, size = PYC_HEADER.unpack(header)
        if flags == 0 and mtime > epoch:
            file.seek(0)
            file.write(PYC_HEADER.pack(magic, flags, epoch & 0xFFFFFFFF, size))
