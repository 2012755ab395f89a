"""The seal's writer with an image for its tree, and a target that compares instead of writing.

What an image of ours has to be, bit for bit, follows from what it holds: so
it is written again, in memory, and held against the file.
"""

import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from singbuild.ext3.attributes import Attribute, want_attribute
from singbuild.ext3.geometry import ROOT_INODE, Geometry
from singbuild.ext3.node import Node, shown
from singbuild.ext3.reader.disk import Disk
from singbuild.ext3.reader.image import Entry, Image
from singbuild.ext3.writer.contents import Contents, Mapped
from singbuild.ext3.writer.filedata import PIECE
from singbuild.ext3.writer.short_files import Short
from singbuild.ext3.writer.target import TargetFile
from singbuild.ext3.writer.volume import Volume

_SCAN = 4 << 20  # bytes looked at at a time
_NOTED = 1000  # places that differ; the first one is what matters


class ImageContents(Contents):
    """Writes an image's inodes into a volume, as the seal writes those of a directory."""

    def __init__(self, image: Image, volume: Volume, geometry: Geometry, seed: bytes) -> None:
        super().__init__(b"", volume, geometry, seed, lambda _: None)
        self._image = image
        self._read: Entry | None = None  # the last one
        self._starts = [(0, "the journal or another file of the file system itself")]

    def owner(self, block: int) -> str:
        """Name whose content a block is."""
        if block >= self._volume.next:
            return "the free space"
        return self._starts[bisect_right(self._starts, (block, "\U0010ffff")) - 1][1]

    def _any(self, node: Node, listed: dict[int, Mapped]) -> bytes:
        self._starts.append((self._volume.next, shown(node.path)))
        return super()._any(node, listed)

    def _directory(self, node: Node) -> Mapped:
        self._starts.append((self._volume.next, shown(node.path)))
        return super()._directory(node)

    def _read_ahead(self, nodes: Sequence[Node]) -> AbstractContextManager[Iterable[list[Short]]]:
        return nullcontext([[(node, memoryview(b""), b"") for node in nodes]])

    def _regular(self, node: Node) -> tuple[Mapped, list[Attribute]]:
        entry = self._entry(node)
        if node.size >= PIECE:
            return self._data(node, self._image.data(entry)), self._attributes(node)
        data = self._image.read(entry)
        return self._data(node, [(0, data)]), self._attributes(node)

    def _target(self, node: Node) -> bytes:
        return self._image.target(self._entry(node))

    def _attributes(self, node: Node) -> list[Attribute]:
        found = self._image.attributes(self._entry(node))
        return [pair for pair in found if want_attribute(pair[0])]

    def _entry(self, node: Node) -> Entry:
        if self._read is None or self._read.inode.number != node.number:
            self._read = Entry(node.path, self._image.inode(node.number))
        return self._read


class Compared(TargetFile):
    """Takes what would be written, and notes where the image holds something else.

    differing: offsets in bytes, of the first byte that differs in each piece.
    """

    def __init__(self, image: Disk) -> None:
        super().__init__(image.path, -1)
        self.differing: list[int] = []
        self._image, self._size = image, 0
        self._covered: list[tuple[int, int]] = []

    def write(self, data: bytes, offset: int) -> None:
        """Compare instead of writing."""
        self._covered.append((offset, offset + len(data)))
        found = self._image.raw(offset, len(data))
        if found != data and len(self.differing) < _NOTED:
            self.differing.append(offset + _first_difference(data, found))

    def write_parts(self, parts: list[bytes | memoryview], offset: int) -> None:
        """Compare several parts, one after the other."""
        self.write(b"".join(parts), offset)

    def truncate(self, size: int) -> None:
        """Note how large the file has to be. size: bytes."""
        self._size = size

    def compare_rest(self) -> None:
        """Compare what was never written, which has to be zeros, and the file's end."""
        done = 0
        for start, end in sorted(self._covered):
            self._check_zeros(done, start)
            done = max(done, end)
        self._check_zeros(done, self._size)
        if self._image.size != self._size:
            self.differing.append(min(self._image.size, self._size))

    def _check_zeros(self, start: int, end: int) -> None:
        zeros = bytes(min(_SCAN, max(end - start, 0)))
        for offset in range(start, end, _SCAN):
            expected = zeros[: end - offset]
            found = self._image.raw(offset, len(expected))
            if found != expected:
                self.differing.append(offset + _first_difference(expected, found))
                return


class Ignored(TargetFile):
    """Takes what would be written, and forgets it."""

    def __init__(self, image: Disk) -> None:
        super().__init__(image.path, -1)

    def write(self, data: bytes, offset: int) -> None:
        """Do nothing."""

    def write_parts(self, parts: list[bytes | memoryview], offset: int) -> None:
        """Do nothing."""


def image_nodes(image: Image) -> list[Node]:
    """Return an image's inodes as ``inventory`` does a directory's, with the image's numbers.

    Raises DamagedImage.
    """
    nodes: dict[int, Node] = {}
    directories: dict[bytes, Node] = {}
    for entry in image.walk():
        node = nodes.get(entry.inode.number)
        if node is None:
            above, _, name = entry.path.rpartition(b"/")
            node = nodes[entry.inode.number] = _node(entry, directories.get(above))
        else:
            above, _, name = entry.path.rpartition(b"/")
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
        inode.sectors * 512,
        parent.number if parent else ROOT_INODE,
    )
    if directory:
        # The root holds lost+found, which the walk leaves out.
        node.entries, node.links = [], 2 if parent else 3
    return node


def _first_difference(one: bytes, other: bytes) -> int:
    """The first place at which two byte strings differ, or the shorter one's end."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
