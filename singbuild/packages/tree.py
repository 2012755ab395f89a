"""An image or a directory as the tree that the database readers ask for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from singbuild.errors import ImageError
from singbuild.ext3.read_inode import DIRECTORY, REGULAR
from singbuild.ext3.reader import Entry, Image
from singbuild.packages.package import Names
from singbuild.rootfs import Rootfs

_DIRECTORY_BITS = 0o4
_PIECE = 1 << 20


class ImageTree:
    """The tree of an open image."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def chunks(self, path: bytes) -> Iterator[bytes] | None:
        """Return a regular file's content in pieces; None when there is no such file."""
        entry = self._image.find(path)
        if entry is None or entry.inode.kind != REGULAR:
            return None
        return self._image.stream(entry)

    def names(self, path: bytes) -> Names:
        """Return what a directory holds; nothing when there is no such directory."""
        entry = self._image.find(path)
        if entry is None or entry.inode.kind != DIRECTORY:
            return []
        return [(child.path.rpartition(b"/")[2], kind) for child, kind in self._listed(entry)]

    def walk(self) -> Iterator[tuple[bytes, Names]]:
        """Yield every directory with what it holds. Files' inodes are not read."""
        waiting, seen = [self._image.root()], set[int]()
        while waiting:
            entry = waiting.pop()
            if entry.inode.number in seen:
                raise self._image.damaged(entry.shown, "the directory has two names")
            seen.add(entry.inode.number)
            names: Names = []
            for name, number, kind in self._image.names(entry):
                directory = self._is_directory(number, kind)
                names.append((name, directory))
                if directory:
                    waiting.append(self._below(entry, name, number))
            yield entry.path, names
