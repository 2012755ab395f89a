"""An opened image of any kind as the tree that the writer reads: its nodes, and what they hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

from singbuild.ext3.attributes import Attribute, want_attribute
from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.node import Node
from singbuild.ext3.writer.filedata import PIECE
from singbuild.ext3.writer.nodes import Nodes, Status
from singbuild.ext3.writer.short_files import Batch, long_file
from singbuild.ext3.writer.target import Target
from singbuild.file_tree import Entry, FileTree


class ImageReader:
    """Reads the nodes of an open image, as ``DirectoryReader`` does those of a directory.

    Entries take a kilobyte each, so they are not kept: a second walk yields them again.
    """

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._entry = tree.root()

    def short_files(self, nodes: Nodes, _target: Target) -> AbstractContextManager[Iterable[Batch]]:
        """Call no file short: a second process would read the same image as this one."""
        self._entry = self._tree.root()  # the tree may be written again, in another geometry
        return nullcontext(self._in_order(nodes))

    def entry(self, node: Node) -> Entry:
        """Return the entry of a node: the root, or the one that was yielded last."""
        assert node.path == self._entry.path
        return self._entry

    def _in_order(self, nodes: Nodes) -> Iterator[Batch]:
        entries = self._tree.walk()
        for node in islice(nodes, 1, None):
            # Between them are further names of inodes.
            self._entry = next(entry for entry in entries if entry.path == node.path)
            yield long_file(node)

    def file(self, node: Node) -> tuple[list[Attribute], Iterable[tuple[int, bytes]]]:
        """Return a regular file's attributes, and its data as (offset, bytes), ascending."""
        entry = self.entry(node)
        if node.size >= PIECE:
            return self._attributes(entry), aligned(self._tree.data(entry))
        return self._attributes(entry), [(0, self._tree.read(entry))]

    def target(self, node: Node) -> bytes:
        """Return what a symbolic link leads to."""
        return self._tree.target(self.entry(node))

    def attributes(self, node: Node) -> list[Attribute]:
        """Return the extended attributes that belong to the tree, sorted."""
        return self._attributes(self.entry(node))

    def _attributes(self, entry: Entry) -> list[Attribute]:
        values = self._tree.attributes(entry)
        return [pair for pair in values if want_attribute(pair[0])]


def aligned(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield a file's data in whole blocks at multiples of BLOCK, whatever its own blocks are."""
    at, rest = 0, b""  # a block that is not complete yet: its offset, its bytes so far
    for offset, data in pieces:
        start = offset // BLOCK * BLOCK
        if rest and start > at:
            yield at, rest.ljust(BLOCK, b"\0")
            rest = b""
        at = at if rest else start
        rest += bytes(offset - at - len(rest)) + data
        whole = len(rest) // BLOCK * BLOCK
        if whole:
            yield at, rest[:whole]
            at, rest = at + whole, rest[whole:]
    if rest:
        yield at, rest


def tree_nodes(tree: FileTree, *, renumber: bool = True) -> Nodes:
    """Return an open image's inodes as ``inventory`` does a directory's.

    renumber: number the inodes as a seal does it, else they keep the image's numbers. Raises
    DamagedImage.
    """
    nodes = Nodes(renumber=renumber)
    nodes.fill(_status(tree.root()), (map(_status, listing) for _, listing in tree.listings()))
    return nodes


def _status(entry: Entry) -> Status:
    inode = entry.inode
    return Status(
        entry.path.rpartition(b"/")[2],
        inode.number,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime,
        0 if stat.S_ISDIR(inode.mode) else inode.size,
        os.makedev(*inode.device),
        inode.disk_bytes,
    )
