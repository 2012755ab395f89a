"""What a reader reads of one image in all, bounded by its size.

Blocks, fragments and values of attributes may be shared and packed a thousandfold, so a small file
could name more than any disk holds.
"""

ATTRIBUTE = 512  # counted for each extended attribute besides its value: to read one takes time
_MOST, _TIMES = 64 << 30, 1024  # bytes in any case, and times the file's size


class Budget:
    """Counts what is read of an image. size: of its file, bytes."""

    def __init__(self, size: int) -> None:
        self._rest = _MOST + _TIMES * size

    def take(self, size: int) -> None:
        """Count bytes. Raises ValueError for more than a file of that size should give."""
        self._rest -= size
        if self._rest < 0:
            raise ValueError("its files hold more than an image of this size should")
