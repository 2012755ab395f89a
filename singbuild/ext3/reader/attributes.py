"""Extended attributes as getxattr(2) gives them, from an inode's rest or an attribute block.

The counterpart of ``ext3/attributes.py``. Attributes that are not valid raise ValueError.
"""

import struct
from collections.abc import Iterator

from singbuild.ext3.attributes import Attribute

MAGIC = struct.pack("<I", 0xEA020000)
_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security.", 7: b"system."}
_ACLS = {2: b"system.posix_acl_access", 3: b"system.posix_acl_default"}
_NOBODY = 0xFFFFFFFF  # ACL_UNDEFINED_ID, <linux/posix_acl_xattr.h>
_WITH_ID = (0x02, 0x08)  # ACL_USER, ACL_GROUP


def in_inode(rest: bytes) -> Iterator[Attribute]:
    """Yield what the end of an inode holds. rest: from the end of its fields on."""
    if rest[:4] == MAGIC:
        # Offsets of values count from the first entry.
        yield from _entries(rest[4:], 0)


def in_block(block: bytes) -> Iterator[Attribute]:
    """Yield what an attribute block holds."""
    if block[:4] != MAGIC:
        raise ValueError("its attribute block has a wrong magic number")
    yield from _entries(block, 32)


def _entries(area: bytes, start: int) -> Iterator[Attribute]:
    """Entries from ``start`` on; offsets of values count from the area's first byte."""
    room = len(area)  # for values, none of which lies in another
    while area[start : start + 4] != bytes(4):
        if start + _ENTRY.size > len(area):
            raise ValueError("its attributes have no end")
        length, index, offset, inode, size, _ = _ENTRY.unpack_from(area, start)
        name = area[start + _ENTRY.size : start + _ENTRY.size + length]
        room -= size
        if inode or len(name) < length or room < 0 or offset + size > len(area):
            raise ValueError("an attribute lies outside its place")
        yield _named(index, name, area[offset : offset + size] if size else b"")
        start += _ENTRY.size + (length + 3 & ~3)


def _named(index: int, name: bytes, value: bytes) -> Attribute:
    if index in _ACLS and not name:
        return _ACLS[index], acl_as_read(value)
    if index not in _PREFIXES or b"\0" in name:
        raise ValueError(f"an attribute has the unknown kind {index}")
    return _PREFIXES[index] + name, value


def acl_as_read(stored: bytes) -> bytes:
    """Return an access control list as getxattr gives it; the counterpart of ``acl_on_disk``."""
    if stored[:4] != struct.pack("<I", 1):
        raise ValueError("an access control list has an unknown version")
    packed, at = [struct.pack("<I", 2)], 4
    while at < len(stored):
        size = 8 if int.from_bytes(stored[at : at + 2], "little") in _WITH_ID else 4
        if at + size > len(stored):
            raise ValueError("an access control list ends within an entry")
        tag, permissions = struct.unpack_from("<HH", stored, at)
        (who,) = struct.unpack_from("<I", stored, at + 4) if size == 8 else (_NOBODY,)
        packed.append(struct.pack("<HHI", tag, permissions, who))
        at += size
    return b"".join(packed)
