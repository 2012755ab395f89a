"""The seal's writer with an image for its tree, and a target that compares instead of writing.

What an image of ours has to be, bit for bit, follows from what it holds: so
it is written again, in memory, and held against the file.
"""

from bisect import bisect_right

from singbuild.ext3.geometry import Geometry
from singbuild.ext3.node import Node, shown
from singbuild.ext3.reader.disk import Disk
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.contents import Mapped
from singbuild.ext3.writer.target import TargetFile
from singbuild.ext3.writer.tree_contents import TreeContents
from singbuild.ext3.writer.volume import Volume
from singbuild.file_tree import Entry

_SCAN = 4 << 20  # bytes looked at at a time
_NOTED = 1000  # places that differ; the first one is what matters


class ImageContents(TreeContents):
    """Writes an image's inodes into a volume, as the seal writes those of a directory."""

    def __init__(self, image: Image, volume: Volume, geometry: Geometry, seed: bytes) -> None:
        super().__init__(image, {}, volume, geometry, seed)
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

    def _entry(self, node: Node) -> Entry:
        """Read the inode once more: to keep all of a large image's would take a kilobyte each."""
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
