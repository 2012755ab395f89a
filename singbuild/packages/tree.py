"""An image or a directory as the tree that the database readers ask for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from singbuild.errors import ImageError
from singbuild.file_tree import DIRECTORY, REGULAR, Entry, FileTree
from singbuild.packages.package import LARGEST, Names
from singbuild.tree.root_directory import RootDirectory

_PIECE = 1 << 20
_TIMES = 4  # as many bytes as the image may be read, beside those of a large database


class ImageTree:
    """The tree of an open image.

    What is read of it in all is bounded: a file of zeros takes no room in an image.
    """

    def __init__(self, image: FileTree) -> None:
        self._image, self._read = image, 0

    def chunks(self, path: bytes) -> Iterator[bytes] | None:
        """Return a regular file's content in pieces; None when there is no such file."""
        entry = self._image.find(path)
        if entry is None or entry.inode.kind != REGULAR:
            return None
        return self._counted(entry)

    def _counted(self, entry: Entry) -> Iterator[bytes]:
        for chunk in self._image.stream(entry):
            self._read += len(chunk)
            if self._read > LARGEST and self._read > LARGEST + _TIMES * self._image.facts.size:
                reason = "what is read holds more than an image of this size should"
                raise self._image.damaged(entry.shown, reason)
            yield chunk

    def names(self, path: bytes) -> Names:
        """Return what a directory holds; nothing when there is no such directory."""
        entry = self._image.find(path)
        if entry is None or entry.inode.kind != DIRECTORY:
            return []
        below = {child.path for child in self._directories(entry)}
        prefix = entry.path + b"/" if entry.path else b""
        return [(name, prefix + name in below) for name, _, _ in self._image.names(entry)]

    def walk(self) -> Iterator[tuple[bytes, Names]]:
        """Yield every directory with what it holds. Files' inodes are not read."""
        waiting, numbers = [self._image.root()], set[int]()
        while waiting:
            entry = waiting.pop()
            if entry.inode.number in numbers:
                raise self._image.damaged(entry.shown, "the directory has two names")
            numbers.add(entry.inode.number)
            below = self._directories(entry)
            inner = {child.path.rpartition(b"/")[2] for child in below}
            yield entry.path, [(name, name in inner) for name, _, _ in self._image.names(entry)]
            waiting += reversed(below)

    def _directories(self, entry: Entry) -> list[Entry]:
        """Return the directories in a directory: by its names' types, else by their inodes."""
        top = stat.S_IFDIR >> 12
        some = (name for name in self._image.names(entry) if name[2] in (0, top))
        below = (self._image.named(entry, name) for name in some)
        return [child for child in below if child.inode.kind == DIRECTORY]


class DirectoryTree:
    """The tree under a directory of the host. Links lead inside it, wherever they point."""

    def __init__(self, rootfs: RootDirectory) -> None:
        self._rootfs = rootfs

    def chunks(self, path: bytes) -> Iterator[bytes] | None:
        """Return a regular file's content in pieces; None when there is no such file."""
        try:
            return _chunks(self._rootfs.open(os.fsdecode(path)))
        except (OSError, ImageError):
            return None

    def names(self, path: bytes) -> Names:
        """Return what a directory holds; nothing when there is no such directory."""
        try:
            with self._rootfs.directory(os.fsdecode(path)) as fd, os.scandir(fd) as entries:
                return _names(entries)
        except (OSError, ImageError):
            return []

    def walk(self) -> Iterator[tuple[bytes, Names]]:
        """Yield every directory with what it holds, as far as it can be read."""
        for path, entries in self._rootfs.walk():
            yield os.fsencode(path), _names(entries)


def _names(entries: Iterable[os.DirEntry[str]]) -> Names:
    return sorted((os.fsencode(each.name), each.is_dir(follow_symlinks=False)) for each in entries)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_PIECE):
            yield chunk
