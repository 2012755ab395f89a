"""What an inode says, checked. Layout: Linux, fs/squashfs/squashfs_fs.h, squashfs_*_inode."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from singbuild.file_tree import KINDS

NONE = 0xFFFFFFFF  # no fragment, no attributes
_HEAD = struct.Struct("<HHHHII")  # type, permissions, owner and group in the table, time, number
_TYPES = {1: 0o4, 2: 0o10, 3: 0o12, 4: 0o6, 5: 0o2, 6: 0o1, 7: 0o14}  # to the mode's top bits
_EXTENDED = 7  # what an extended type adds to the basic one
_LONGEST_TARGET = 4096

Take = Callable[[int], bytes]
"""Gives the next bytes of the inode table."""


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode. blocks: sizes of a file's blocks, four bytes each; start: of its first one.

    start, offset: for a directory where its names begin, in the table and in that block;
    fragment: the block that holds the file's end, offset in it; parent: a directory's;
    attribute: number in the table of attributes, or NONE.
    """

    number: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    links: int = 1
    device: tuple[int, int] = (0, 0)
    start: int = 0
    offset: int = 0
    fragment: int = NONE
    attribute: int = NONE
    parent: int = 0
    blocks: bytes = b""
    link: bytes = b""

    @property
    def kind(self) -> str:
        """REGULAR, DIRECTORY, SYMLINK or the words for another type."""
        return KINDS[self.mode >> 12]

    @property
    def permissions(self) -> int:
        """The mode without its type."""
        return self.mode & 0o7777

    @property
    def disk_bytes(self) -> int:
        """What its blocks take, unpacked; they may be shared."""
        return self.size


def kind_of(number: int) -> int:
    """Return the mode's top four bits for a basic type. Raises ValueError."""
    if number not in _TYPES:
        raise ValueError(f"the unknown type {number}")
    return _TYPES[number]


def inode(take: Take, owner: Callable[[int], int], block: int) -> Inode:
    """Read an inode. owner: gives an id of the table; block: bytes of a block of data."""
    kind, permissions, uid, gid, mtime, number = _HEAD.unpack(take(_HEAD.size))
    extended = kind > _EXTENDED
    basic = kind - _EXTENDED if extended else kind
    mode = kind_of(basic) << 12 | permissions & 0o7777
    facts = _READERS[basic](take, extended, block)
    return Inode(number=number, mode=mode, uid=owner(uid), gid=owner(gid), mtime=mtime, **facts)


def _numbers(take: Take, form: str) -> tuple[int, ...]:
    form = f"<{form}"
    return struct.unpack(form, take(struct.calcsize(form)))


def _directory(take: Take, extended: bool, _block: int) -> dict[str, Any]:
    if extended:
        links, size, start, parent, _count, offset, attribute = _numbers(take, "IIIIHHI")
    else:
        start, links, size, offset, parent = _numbers(take, "IIHHI")
        attribute = NONE
    if size < 3:
        raise ValueError(f"a directory of {size} bytes")
    # The size is 3 bytes larger than the names: for "." and "..", which are not stored.
    return {
        "links": links, "size": size - 3, "start": start, "offset": offset, "parent": parent,
        "attribute": attribute,
    }  # fmt: skip


def _file(take: Take, extended: bool, block: int) -> dict[str, Any]:
    if extended:
        start, size, _sparse, links, fragment, offset, attribute = _numbers(take, "QQQIIII")
    else:
        start, fragment, offset, size = _numbers(take, "IIII")
        links, attribute = 1, NONE
    if size >= 1 << 63:
        raise ValueError(f"a size of {size} bytes")
    count = size // block if fragment != NONE else -(-size // block)
    listed = take(4 * count)  # fails where the table ends, whatever the size says
    return {
        "size": size, "links": links, "start": start, "offset": offset, "fragment": fragment,
        "attribute": attribute, "blocks": listed,
    }  # fmt: skip


def _symlink(take: Take, extended: bool, _block: int) -> dict[str, Any]:
    links, size = _numbers(take, "II")
    if not 0 < size < _LONGEST_TARGET:
        raise ValueError(f"a symbolic link of {size} bytes")
    target = take(size)
    if b"\0" in target:
        raise ValueError("a symbolic link with a NUL in its target")
    attribute = _numbers(take, "I")[0] if extended else NONE
    return {"links": links, "size": size, "link": target, "attribute": attribute}


def _device(take: Take, extended: bool, _block: int) -> dict[str, Any]:
    links, number = _numbers(take, "II")
    attribute = _numbers(take, "I")[0] if extended else NONE
    # <linux/kdev_t.h>, new_decode_dev
    device = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    return {"links": links, "device": device, "attribute": attribute}


def _other(take: Take, extended: bool, _block: int) -> dict[str, Any]:
    (links,) = _numbers(take, "I")
    attribute = _numbers(take, "I")[0] if extended else NONE
    return {"links": links, "attribute": attribute}


_READERS: dict[int, Callable[[Take, bool, int], dict[str, Any]]] = {
    1: _directory, 2: _file, 3: _symlink, 4: _device, 5: _device, 6: _other, 7: _other,
}  # fmt: skip
