"""The seal's writer with an opened image for its tree: from one kind of image to an ext3."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from singbuild.ext3.attributes import Attribute, want_attribute
from singbuild.ext3.geometry import BLOCK, FIRST_INODE, ROOT_INODE, Geometry
from singbuild.ext3.node import Node
from singbuild.ext3.writer.contents import Contents, Mapped
from singbuild.ext3.writer.filedata import PIECE
from singbuild.ext3.writer.short_files import Short
from singbuild.ext3.writer.target import TargetFile
from singbuild.ext3.writer.volume import Volume
from singbuild.file_tree import Entry, FileTree

# For what no seal lays out: room for anything, and nothing is written.
ANY = Geometry(1 << 17, 1 << 15, 1024)


class TreeContents(Contents):
    """Writes an open image's inodes into a volume, as the seal writes those of a directory.

    entries: of the inodes, by number.
    """

    def __init__(
        self,
        tree: FileTree,
        entries: Mapping[int, Entry],
        volume: Volume,
        geometry: Geometry,
        seed: bytes,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__(b"", volume, geometry, seed, on_bytes)
        self._tree, self._entries = tree, entries

    def _read_ahead(self, nodes: Sequence[Node]) -> AbstractContextManager[Iterable[list[Short]]]:
        return nullcontext([[(node, memoryview(b""), b"")] for node in nodes])

    def _regular(self, node: Node) -> tuple[Mapped, list[Attribute]]:
        entry = self._entry(node)
        if node.size >= PIECE:
            mapped = self._data(node, aligned(self._tree.data(entry)))
            self._on_bytes(node.size)
        else:
            mapped = self._data(node, [(0, self._tree.read(entry))])
        return mapped, self._attributes(node)

    def _target(self, node: Node) -> bytes:
        return self._tree.target(self._entry(node))

    def _attributes(self, node: Node) -> list[Attribute]:
        found = self._tree.attributes(self._entry(node))
        return [pair for pair in found if want_attribute(pair[0])]

    def _entry(self, node: Node) -> Entry:
        return self._entries[node.number]


class Ignored(TargetFile):
    """Takes what would be written, and forgets it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, -1)

    def write(self, data: bytes, offset: int) -> None:
        """Do nothing."""

    def write_parts(self, parts: list[bytes | memoryview], offset: int) -> None:
        """Do nothing."""


def tree_digests(
    tree: FileTree, nodes: Sequence[Node], entries: Mapping[int, Entry]
) -> list[bytes]:
    """Return the digest of each inode, as a seal would record it; nothing is written."""
    with Volume(Ignored(tree.path), ANY) as volume:
        contents = TreeContents(tree, entries, volume, ANY, bytes(16))
        contents.write(nodes, 0)
        return contents.digests()


def aligned(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield a file's data in whole blocks at multiples of BLOCK, whatever its own blocks are."""
    at, held = 0, b""
    for offset, data in pieces:
        start = offset // BLOCK * BLOCK
        if held and start > at:
            yield at, held.ljust(BLOCK, b"\0")
            held = b""
        at = at if held else start
        held += bytes(offset - at - len(held)) + data
        whole = len(held) // BLOCK * BLOCK
        if whole:
            yield at, held[:whole]
            at, held = at + whole, held[whole:]
    if held:
        yield at, held


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
