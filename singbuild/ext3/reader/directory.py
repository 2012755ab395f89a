"""The names that a directory's block holds, checked.

A hash tree (dir_index) needs no code of its own: its inner blocks look like
unused entries, by design. The layout is in the kernel's "directory" page of ext4.
"""

import struct
from collections.abc import Iterator

from singbuild.file_tree import DirEntry

_HEAD = struct.Struct("<IHBB")
_KINDS = {1: 0o10, 2: 0o4, 3: 0o2, 4: 0o6, 5: 0o1, 6: 0o14, 7: 0o12}  # to the mode's top bits


def names(block: bytes, *, filetype: bool) -> Iterator[DirEntry]:
    """Yield what one block names, "." and ".." included. Raises ValueError for one not valid."""
    offset, end = 0, len(block)
    while offset < end:
        if end - offset < _HEAD.size:
            raise ValueError(f"an entry at byte {offset} has no room")
        number, length, size, kind = _HEAD.unpack_from(block, offset)
        if end > 0xFFFF and length in (0, 0xFFFF):
            length = end - offset  # 64 KiB do not fit the field
        if length < 12 or length & 3 or length > end - offset:
            raise ValueError(f"an entry at byte {offset} has the length {length}")
        # Without that feature the byte is the upper half of the name's length.
        if not filetype and kind:
            raise ValueError(f"an entry at byte {offset} has a name of over 255 bytes")
        if number:
            yield _name(block, offset, length, size), number, _KINDS.get(kind, 0)
        offset += length


def _name(block: bytes, offset: int, length: int, size: int) -> bytes:
    name = block[offset + 8 : offset + 8 + size]
    if not size or size > length - 8 or b"/" in name or b"\0" in name:
        raise ValueError(f"an entry at byte {offset} has an impossible name")
    return name
