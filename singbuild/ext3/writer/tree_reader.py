"""The interface by which the writer reads a tree's content, and its form for a host's directory.

Nothing here knows what the writer does with the content.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from singbuild.ext3.attributes import Attribute, want_attribute
from singbuild.ext3.node import Node
from singbuild.ext3.writer.filedata import PIECE, Files, changed, pieces
from singbuild.ext3.writer.nodes import Nodes
from singbuild.ext3.writer.short_files import Batch, read_ahead
from singbuild.ext3.writer.target import Target


class TreeReader(Protocol):
    """Reads what the nodes of a tree hold. Every call may raise OSError and ImageError."""

    def short_files(self, nodes: Nodes, target: Target) -> AbstractContextManager[Iterable[Batch]]:
        """Yield all nodes but the root, some at a time; write short files into the target.

        The other methods are called with the root before the first of them is taken, then with
        each when it was yielded.
        """

    def file(self, node: Node) -> tuple[list[Attribute], Iterable[tuple[int, bytes]]]:
        """Return a regular file's attributes, and its data as (offset, bytes), ascending."""

    def target(self, node: Node) -> bytes:
        """Return what a symbolic link leads to."""

    def attributes(self, node: Node) -> list[Attribute]:
        """Return the extended attributes that belong to the tree, sorted."""


class DirectoryReader:
    """Reads a directory of the host, of which it holds one directory open."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._files = Files(root)

    def close(self) -> None:
        """Close what is open."""
        self._files.close()

    def short_files(self, nodes: Nodes, target: Target) -> AbstractContextManager[Iterable[Batch]]:
        """Have a second process read them ahead."""
        return read_ahead(self._root, nodes, target)

    def file(self, node: Node) -> tuple[list[Attribute], Iterator[tuple[int, bytes]]]:
        """Open the file once, so that attributes and data are those of one inode."""
        fd = self._files.opened(node)
        try:
            pairs = _attributes(fd)
        except BaseException:
            os.close(fd)
            raise
        return pairs, _data(node, fd)

    def target(self, node: Node) -> bytes:
        """Read the link. readlink(2)."""
        return os.readlink(self._path(node))  # noqa: PTH115 - a target is bytes, not a Path

    def attributes(self, node: Node) -> list[Attribute]:
        """Read them by path: a device, a socket and a link cannot be opened."""
        return _attributes(self._path(node))

    def _path(self, node: Node) -> bytes:
        return self._root + b"/" + node.path


def _data(node: Node, fd: int) -> Iterator[tuple[int, bytes]]:
    try:
        if node.size >= PIECE:
            yield from pieces(node, fd)
        else:  # one read(2) in place of three lseek(2): zeros are looked for anyway
            data = os.read(fd, node.size + 1)
            if len(data) != node.size:
                raise changed(node)
            yield 0, data
    finally:
        os.close(fd)


def _attributes(where: bytes | int) -> list[Attribute]:
    """Those that belong to the tree, sorted. where: an open file, or a path not to be followed."""
    follow = isinstance(where, int)  # listxattr insists on it for an open file
    try:
        names = os.listxattr(where) if follow else os.listxattr(where, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return []
        raise
    if not names:
        return []
    return sorted(
        (os.fsencode(name), os.getxattr(where, name, follow_symlinks=follow))
        for name in names
        if want_attribute(os.fsencode(name))
    )
