"""Compares an image of ours with the bytes that its tree makes the seal's writer write."""

from array import array
from bisect import bisect_right
from itertools import chain, islice

from singbuild.ext3.node import Node, shown
from singbuild.ext3.reader.disk import Disk
from singbuild.ext3.writer.nodes import Nodes

# Compared at a time: a buffer of over 128 KiB would be mapped and cleared anew by each malloc(3).
_ZEROS = bytes(1 << 16)
_NOTED = 1000  # places that differ; the first one is what matters


class BlockOwners:
    """Tells which path of a tree a block belongs to."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._starts = array("I")

    def note(self, _node: Node, block: int) -> None:
        """Note that a node's blocks begin at ``block`` at the earliest; in ascending order.

        ``write_contents`` calls it, where no node is a short file, first for each directory,
        before the blocks with its names, then for every node.
        """
        self._starts.append(block)

    def owner(self, block: int) -> str:
        """Name the file that a block belongs to."""
        place = bisect_right(self._starts, block)
        if not place:
            return "the journal or another file of the file system itself"
        order = chain((node for node, _ in self._nodes.directories()), self._nodes)
        return shown(next(islice(order, place - 1, None)).path)


class Compared:
    """A target that compares what it takes with an image.

    differing: offsets in bytes, of the first byte that differs in each piece. boot: is compared
    in place of the image's boot block.
    """

    def __init__(self, image: Disk, boot: bytes) -> None:
        self.differing: list[int] = []
        self._image, self._boot, self._size = image, boot, 0
        self._covered: list[tuple[int, int]] = []

    def write(self, data: bytes, offset: int) -> None:
        """Compare instead of writing."""
        self._covered.append((offset, offset + len(data)))
        actual = self._image.raw(offset, len(data)) if offset else self._boot
        if actual != data and len(self.differing) < _NOTED:
            self.differing.append(offset + _first_difference(data, actual))

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
        # A sparse file of terabytes would else take hours.
        for first, last in self._image.stored_parts(start, end):
            for offset in range(first, last, len(_ZEROS)):
                expected = _ZEROS[: last - offset]
                actual = self._image.raw(offset, len(expected))
                if actual != expected:
                    self.differing.append(offset + _first_difference(expected, actual))
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
