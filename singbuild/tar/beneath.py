"""Opens, makes and removes what is in one directory tree, and never anything outside it.

Every path is resolved by the kernel below the root (openat2(2)): links on the way lead to where
they lead inside the tree, ``..`` and absolute ones too. Nobody else may change the tree meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from singbuild.errors import HostError
from singrun import syscalls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A quarter of what most hosts allow a process, RLIMIT_NOFILE: getrlimit(2).
OPEN_DIRECTORIES = 256


class Directory(NamedTuple):
    """An open directory. path: from the root, without links; is_setgid: it is setgid."""

    fd: int
    path: bytes
    is_setgid: bool

    def inside(self, name: bytes) -> bytes:
        """Return the path of an entry."""
        return self.path + b"/" + name if self.path else name

    def kind(self, name: bytes) -> int:
        """Return the mode of an entry, links not followed. Raises FileNotFoundError."""
        return os.lstat(name, dir_fd=self.fd).st_mode


class Tree:
    """The tree below one directory.

    on_make: called with a directory, and the name in it of one that was missing on the way and
    has been made; on_remove: called with the path of each entry that ``remove`` removes.
    """

    def __init__(
        self,
        root: Path,
        on_make: Callable[[Directory, bytes], None],
        on_remove: Callable[[bytes], object],
    ) -> None:
        self._root = os.open(root, _DIRECTORY)
        self._place = os.path.realpath(os.fsencode(root)).rstrip(b"/") + b"/"
        self._on_make = on_make
        self._on_remove = on_remove
        self._open: dict[bytes, Directory] = {}
        self._links = 0  # followed on the way to the directory that is being made

    def close(self) -> None:
        """Close everything."""
        self.close_all()
        os.close(self._root)

    def directory(self, path: bytes, *, make: bool = True) -> Directory:
        """Return a directory, open until ``remove``, ``close_surplus`` or ``close_all`` is called.

        path: without ``.`` and ``..``, b"" for the root; make: what is missing on the way is
        made, mode 0755. Raises OSError.
        """
        directory = self._open.get(path)
        if directory:
            return directory
        try:
            fd, real = self._open_anywhere(path)
        except FileNotFoundError:
            if not make:
                raise
            return self._make_parents(path)
        directory = Directory(fd, real, bool(os.fstat(fd).st_mode & stat.S_ISGID))
        self._open[path] = directory
        return directory

    def _open_anywhere(self, path: bytes) -> tuple[int, bytes]:
        """Open a directory, by way of links too; return also its path without links."""
        try:
            return self.exactly(path), path
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        fd = self._openat2(path, syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS)
        place = os.fsencode(Path(f"/proc/self/fd/{fd}").readlink())
        return fd, (place + b"/").removeprefix(self._place)[:-1]

    def exactly(self, path: bytes) -> int:
        """Open a directory that no link leads to; the caller closes it. Raises OSError."""
        return self._openat2(path or b".", syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS)

    def remove(self, where: Directory, name: bytes) -> None:
        """Remove an entry with all below it.

        It may be gone already. Of the open directories only ``where`` stays open.
        """
        try:
            kind = where.kind(name)
        except FileNotFoundError:
            return
        remove(where.fd, name, lambda path: self._on_remove(where.inside(path)))
        if stat.S_ISDIR(kind) or stat.S_ISLNK(kind):
            self.close_all(keep=where)  # others may have been below it, or behind it

    def close_surplus(self) -> None:
        """Close directories when more than 256 are open; to be called when none is in use.

        They stay open at all because most members lie beside the one before.
        """
        if len(self._open) > OPEN_DIRECTORIES:
            self.close_all()

    def close_all(self, keep: Directory | None = None) -> None:
        """Close all directories but one."""
        for directory in self._open.values():
            if not keep or directory.fd != keep.fd:
                os.close(directory.fd)
        self._open = {keep.path: keep} if keep else {}

    def _make_parents(self, path: bytes) -> Directory:
        above, here = b"", self.directory(b"")
        for name in path.split(b"/"):
            above = above + b"/" + name if above else name
            try:
                here = self.directory(above, make=False)
            except FileNotFoundError:
                self._make_missing(here, name)
                here = self.directory(above, make=False)
            if len(self._open) > OPEN_DIRECTORIES:
                self.close_all()
                here = self.directory(above, make=False)
        return here

    def _make_missing(self, where: Directory, name: bytes) -> None:
        """Make a directory, or the one that a link of this name leads to."""
        try:
            os.mkdir(name, 0o755, dir_fd=where.fd)
            self._on_make(where, name)
        except FileExistsError:
            if self._links == syscalls.MAXSYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            target = os.fsencode(os.readlink(name, dir_fd=where.fd))
            above = b"" if target.startswith(b"/") else b"/" + where.path + b"/"
            self._links += 1
            try:
                self.directory(os.path.normpath(b"/" + above + target).strip(b"/"))
            finally:
                self._links -= 1

    def _openat2(self, path: bytes, resolve: int) -> int:
        try:
            return syscalls.openat2(self._root, os.fsdecode(path), _DIRECTORY, resolve)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            raise HostError(
                "archives cannot be unpacked safely here",
                why="this kernel has no openat2(2)",
                remedy="Use Linux 5.6 or later.",
            ) from error


def remove(above: int, name: bytes, on_remove: Callable[[bytes], object]) -> None:
    """Remove an entry of an open directory with all below it; no link is followed.

    on_remove: called with the path, from that directory, of each entry.
    """
    if stat.S_ISDIR(os.lstat(name, dir_fd=above).st_mode):
        _remove_tree(above, name, on_remove)
    else:
        os.unlink(name, dir_fd=above)
        on_remove(name)


def _remove_tree(above: int, top: bytes, on_remove: Callable[[bytes], object]) -> None:
    """Remove a directory below an open one, however deep; no link is followed."""
    # Not shutil.rmtree(), which calls itself for each level, and fails in a deep tree:
    # https://github.com/python/cpython/issues/89727
    waiting, emptied = [top], []
    while waiting:
        path = waiting.pop()
        emptied.append(path)
        fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    below = path + b"/" + os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(below)
                    else:
                        os.unlink(entry.name, dir_fd=fd)
                        on_remove(below)
        finally:
            os.close(fd)
    for path in reversed(emptied):
        os.rmdir(path, dir_fd=above)
        on_remove(path)
