"""An opened image of any kind as the tree that the writer reads: its nodes, and what they hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from singbuild.ext3.attributes import Attribute, want_attribute
from singbuild.ext3.geometry import BLOCK, FIRST_INODE, ROOT_INODE
from singbuild.ext3.node import Node
from singbuild.ext3.writer.filedata import PIECE
from singbuild.ext3.writer.short_files import Short
from singbuild.file_tree import Entry, FileTree


class ImageReader:
    """Reads the nodes of an open image, as ``DirectoryReader`` does those of a directory.

    entry_of: returns the entry of a node.
    """

    def __init__(self, tree: FileTree, entry_of: Callable[[Node], Entry]) -> None:
        self._tree, self._entry_of = tree, entry_of

    def short_files(self, nodes: Sequence[Node]) -> AbstractContextManager[Iterable[list[Short]]]:
        """Call no file short: a second process would read the same image as this one."""
        return nullcontext([(node, b"", b"")] for node in nodes)

    def file(self, node: Node) -> tuple[list[Attribute], Iterable[tuple[int, bytes]]]:
        """Return a regular file's attributes, and its data as (offset, bytes), ascending."""
        entry = self._entry_of(node)
        if node.size >= PIECE:
            return self._attributes(entry), aligned(self._tree.data(entry))
        return self._attributes(entry), [(0, self._tree.read(entry))]

    def target(self, node: Node) -> bytes:
        """Return what a symbolic link leads to."""
        return self._tree.target(self._entry_of(node))

    def attributes(self, node: Node) -> list[Attribute]:
        """Return the extended attributes that belong to the tree, sorted."""
        return self._attributes(self._entry_of(node))

    def _attributes(self, entry: Entry) -> list[Attribute]:
        values = self._tree.attributes(entry)
        return [pair for pair in values if want_attribute(pair[0])]


def aligned(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield a file's data in whole blocks at multiples of BLOCK, whatever its own blocks are."""
    at, rest = 0, b""  # less than a block that is not complete yet
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


def tree_nodes(tree: FileTree, entries: dict[int, Entry] | None = None) -> list[Node]:
    """Return an open image's inodes as ``inventory`` does a directory's.

    entries: is filled with the entry of each inode, and the inodes are numbered as a seal does
    it; without it they keep the image's numbers. Raises DamagedImage.
    """
    nodes: dict[int, Node] = {}
    directories: dict[bytes, Node] = {}
    for entry in tree.walk():
        number = entry.inode.number
        above, _, name = entry.path.rpartition(b"/")
        node = nodes.get(number)
        if node is None:
            parent = directories.get(above)
            node = nodes[number] = _node(entry, parent)
            if entries is not None:
                node.number = FIRST_INODE + len(nodes) - 2 if parent else ROOT_INODE
                node.parent = parent.number if parent else ROOT_INODE
                entries[node.number] = entry
        else:
            node.links += 1
        if node.entries is not None:
            directories[entry.path] = node
        if entry.path:
            parent = directories[above]
            assert parent.entries is not None
            parent.entries.append((name, node))
            parent.links += node.entries is not None
    return list(nodes.values())


def _node(entry: Entry, parent: Node | None) -> Node:
    inode = entry.inode
    directory = stat.S_ISDIR(inode.mode)
    node = Node(
        entry.path,
        inode.number,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime,
        0 if directory else inode.size,
        os.makedev(*inode.device),
        inode.disk_bytes,
        parent.number if parent else ROOT_INODE,
    )
    if directory:
        # The root holds lost+found, which the walk leaves out.
        node.entries, node.links = [], 2 if parent else 3
    return node
