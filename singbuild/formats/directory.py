"""A plain directory: a sandbox, which programs and editors of the host change as they like.

An ordinary user's own files belong to root in the image, as after a build.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from singbuild.contract import Format, Reporter
from singbuild.errors import ImageError
from singbuild.ext3.attributes import Attribute, want_attribute
from singbuild.ext3.holes import stored_parts
from singbuild.ext3.node import LOST_AND_FOUND, shown
from singbuild.file_tree import (
    PIECE,
    DirEntry,
    Entry,
    Facts,
    FileTree,
    PlainInode,
    Segment,
    check_names,
    inside,
)
from singbuild.formats.hookspecs import hookimpl
from singrun import syscalls

_EXACTLY = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@hookimpl
def singbuild_format() -> Format:
    """Describe the format."""
    return Format("a plain directory, to be changed by anything", directory=True)


@hookimpl
def singbuild_write(tree: FileTree, target: Path, report: Reporter) -> bool:
    """Unpack the tree; warn of what an ordinary user may not make, and leave it out."""
    # Not loaded to read images.
    from singbuild.formats.lossy import without
    from singbuild.tar.extract import Unpacker
    from singbuild.tar.write import archive

    lossy_tree = without(tree, report, "a directory", sockets=True)
    with Unpacker(target, report) as unpacker:
        unpacker.apply(archive(lossy_tree))
    return True


@hookimpl
def singbuild_recognise(path: Path, head: bytes) -> bool:
    """Recognise any directory."""
    return not head and path.is_dir()


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open its root; everything is found below that."""
    return Sandbox(path)


class Sandbox(FileTree):
    """A directory as an open image. Links in it are never followed by the host's kernel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = os.open(path, _DIRECTORY | os.O_CLOEXEC)
        self._numbers: dict[tuple[int, int], int] = {}  # of (device, inode): mounts may lie below
        self._last: tuple[bytes, int] = (b"", os.dup(self._root))
        self._uid, self._gid = os.geteuid(), os.getegid()

    def close(self) -> None:
        """Close what is open."""
        os.close(self._root)
        os.close(self._last[1])

    @cached_property
    def facts(self) -> Facts:
        """Count what it takes."""
        size = sum(entry.inode.disk_bytes for entry in self.walk())
        return Facts("directory", size, size)

    def root(self) -> Entry:
        """Return the directory itself."""
        return Entry(b"", self._inode(os.fstat(self._root)))

    def names(self, directory: Entry, _parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names, sorted; each number is 0, since inodes are found by name."""
        with self._read(directory.path), os.scandir(self._directory(directory.path)) as entries:
            names = [(os.fsencode(each.name), 0, _type(each)) for each in entries]
        if not directory.path:
            names = [each for each in names if each[0] != LOST_AND_FOUND]
        with self._reading(directory.path):
            return check_names(names)

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of a name, as it is now."""
        with self._reading(directory.path):
            path = inside(directory, name_row[0])
        with self._read(path):
            where = self._directory(directory.path)
            return Entry(path, self._inode(os.lstat(name_row[0], dir_fd=where)))

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data as (offset, bytes), holes left out where the host knows them."""
        with self._read(entry.path), self._opened(entry) as fd:
            for start, end in stored_parts(fd, entry.inode.size):
                at = start
                while at < end:
                    data = os.pread(fd, min(PIECE, end - at), at)
                    if not data:
                        raise ImageError(f"{entry.shown} was changed while it was read")
                    yield at, data
                    at += len(data)

    def segments(self, entry: Entry) -> list[Segment]:
        """Return where a file has data, as the host knows it."""
        rows: list[Segment] = []
        with self._read(entry.path), self._opened(entry) as fd:
            for start, end in stored_parts(fd, entry.inode.size):
                if rows and sum(rows[-1]) == start:
                    start = rows.pop()[0]
                rows.append((start, end - start))
        return rows

    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""
        with self._read(entry.path):
            where, name = self._place(entry.path)
            return os.readlink(name, dir_fd=where)

    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        """Return extended attributes, sorted by name, but for those of the host."""
        where, name = self._place(entry.path)
        # There is no listxattrat(2) before Linux 6.13, nor in Python.
        path = f"/proc/self/fd/{where}/".encode() + name if entry.path else self._root
        follow = isinstance(path, int)
        with self._read(entry.path):
            try:
                names = sorted(map(os.fsencode, os.listxattr(path, follow_symlinks=follow)))
                return tuple(
                    (each, os.getxattr(path, each, follow_symlinks=follow))
                    for each in names
                    if want_attribute(each)
                )
            except OSError as error:
                if error.errno in (errno.ENOTSUP, errno.ENOSYS):
                    return ()
                raise

    @contextlib.contextmanager
    def _opened(self, entry: Entry) -> Iterator[int]:
        fd = self._open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    def _directory(self, path: bytes) -> int:
        """Return a descriptor of a directory, open until another one is asked for."""
        if self._last[0] != path:
            fd = self._open(path, _DIRECTORY)
            os.close(self._last[1])
            self._last = path, fd
        return self._last[1]

    def _open(self, path: bytes, flags: int) -> int:
        return syscalls.openat2(self._root, os.fsdecode(path or b"."), flags, _EXACTLY)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return self._directory(above), name

    def _inode(self, status: os.stat_result) -> PlainInode:
        key = status.st_dev, status.st_ino
        mode = status.st_mode
        node = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return PlainInode(
            self._numbers.setdefault(key, len(self._numbers) + 2),
            mode,
            0 if self._uid and status.st_uid == self._uid else status.st_uid,
            0 if self._uid and status.st_gid == self._gid else status.st_gid,
            0 if stat.S_ISDIR(mode) or node else status.st_size,
            int(status.st_mtime),
            status.st_nlink,
            (os.major(status.st_rdev), os.minor(status.st_rdev)) if node else (0, 0),
            status.st_blocks * 512,
        )

    @contextlib.contextmanager
    def _read(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ImageError(
                f"cannot read {shown(path)} in {self.path}",
                why=f"{error.strerror}.",
                remedy="Make it readable for you, or do this as its owner.",
            ) from error


def _type(entry: os.DirEntry[str]) -> int:
    """Return the mode's top four bits where the directory tells them, else 0."""
    if entry.is_symlink():
        return stat.S_IFLNK >> 12
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR >> 12
    return stat.S_IFREG >> 12 if entry.is_file(follow_symlinks=False) else 0
