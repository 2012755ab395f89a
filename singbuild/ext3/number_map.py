"""A number for each of many inodes, in 8 bytes where the inodes' own numbers follow each other."""

from array import array

_PAGE_BITS = 6
_PAGE = 1 << _PAGE_BITS  # inodes; small, since a host's inode numbers may lie far apart


class NumberMap:
    """Maps an inode number, of any size, to a number from 0 to 2**64 - 1; 0 until it is set."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def get(self, inode: int) -> int:
        """Return the inode's number."""
        page = self._pages.get(inode >> _PAGE_BITS)
        return page[inode % _PAGE] if page else 0

    def add(self, inode: int) -> bool:
        """Set the inode's number to 1; return whether it was 0."""
        is_new = not self.get(inode)
        self.set(inode, 1)
        return is_new

    def set(self, inode: int, number: int) -> None:
        """Set the inode's number. Raises OverflowError for one that has over 64 bits."""
        page = self._pages.get(inode >> _PAGE_BITS)
        if page is None:
            page = self._pages[inode >> _PAGE_BITS] = array("Q", bytes(8 * _PAGE))
        page[inode % _PAGE] = number
