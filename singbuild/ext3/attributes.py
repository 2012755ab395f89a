"""Extended attributes as the inode and one further block hold them.

The layout is in the kernel's Documentation/filesystems/ext4/attributes.rst;
the two forms of an access control list are in posix_acl_xattr.h (what
getxattr gives) and fs/ext4/acl.h (what the disk holds).
"""

import struct
from collections.abc import Iterable

from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.records import ATTRIBUTE_ROOM

_MAGIC = 0xEA020000
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_PREFIXES = {b"user.": 1, b"trusted.": 4, b"security.": 6}
# A label that the host's SELinux policy shows on every file, set or not.
_HOST_OWNED = {b"security.selinux"}
_WORD = 0xFFFFFFFF

Attribute = tuple[bytes, bytes]  # name as getxattr(2) knows it, value likewise


def want_attribute(name: bytes) -> bool:
    """Tell whether an attribute belongs to the tree.

    False for those that a host's file system or policy shows by itself
    (system.nfs4_acl, btrfs.compression, security.selinux …).
    """
    return name in _ACLS or (name.startswith(tuple(_PREFIXES)) and name not in _HOST_OWNED)


def attributes(pairs: Iterable[Attribute]) -> tuple[bytes, bytes]:
    """Divide attributes between the inode (b"" or up to ATTRIBUTE_ROOM) and a block (b"" or BLOCK).

    Raises ValueError when a value fits neither: ext3 has one block for them.
    """
    entries = sorted(_stored(name, value) for name, value in pairs)
    inside: list[_Entry] = []
    outside: list[_Entry] = []
    room = ATTRIBUTE_ROOM - 8  # magic, end of the list
    for entry in entries:
        size = _size(entry)
        (inside if size <= room else outside).append(entry)
        room -= size if size <= room else 0
    if sum(map(_size, outside)) > BLOCK - 36:  # header, end of the list
        raise ValueError("its extended attributes do not fit into one block of 4096 bytes")
    magic = struct.pack("<I", _MAGIC)
    in_inode = magic + _packed(inside, ATTRIBUTE_ROOM - 4, 0, hashed=False) if inside else b""
    return in_inode, _block(outside) if outside else b""


_Entry = tuple[int, int, bytes, bytes]  # index, length of name, name, value: the kernel's order


def _stored(name: bytes, value: bytes) -> _Entry:
    if name in _ACLS:
        return _ACLS[name], 0, b"", acl_on_disk(value)
    prefix = next(p for p in _PREFIXES if name.startswith(p))
    rest = name.removeprefix(prefix)
    return _PREFIXES[prefix], len(rest), rest, value


def acl_on_disk(value: bytes) -> bytes:
    """Turn an access control list into ext3's form: ids only where the tag needs one."""
    packed = [struct.pack("<I", 1)]
    for tag, permissions, who in struct.iter_unpack("<HHI", value[4:]):
        packed.append(struct.pack("<HH", tag, permissions))
        if tag in (0x02, 0x08):  # ACL_USER, ACL_GROUP
            packed.append(struct.pack("<I", who))
    return b"".join(packed)


def _size(entry: _Entry) -> int:
    return 16 + _round4(len(entry[2])) + _round4(len(entry[3]))


def _round4(size: int) -> int:
    return (size + 3) & ~3


def _packed(entries: list[_Entry], size: int, base: int, *, hashed: bool) -> bytes:
    """Descriptions from the front, values from the back, in ``size`` bytes.

    base: bytes before these, from whose begin the offsets of values count.
    """
    front, back, end = b"", b"", size
    for index, length, name, value in entries:
        end -= _round4(len(value))
        offset = base + end if value else 0
        # In an inode the hash must be 0, as e2fsck checks any other: Linux,
        # Documentation/filesystems/ext4/attributes.rst, e_hash.
        digest = _hash(name, value) if hashed else 0
        front += struct.pack("<BBHIII", length, index, offset, 0, len(value), digest)
        front += name.ljust(_round4(length), b"\0")
        back = value.ljust(_round4(len(value)), b"\0") + back
    return front.ljust(size - len(back), b"\0") + back


def _block(entries: list[_Entry]) -> bytes:
    digest = 0
    for _, _, name, value in entries:
        digest = _rotated(digest, 16) ^ _hash(name, value)
    header = struct.pack("<IIII16x", _MAGIC, 1, 1, digest)
    return header + _packed(entries, BLOCK - 32, 32, hashed=True)


def _hash(name: bytes, value: bytes) -> int:
    digest = 0
    # Unsigned, as the kernel writes it since 6.2; x86 wrote signed bytes before, and accepts both
    # now: https://git.kernel.org/linus/f3bbac32475b
    for byte in name:
        digest = _rotated(digest, 5) ^ byte
    for (word,) in struct.iter_unpack("<I", value.ljust(_round4(len(value)), b"\0")):
        digest = _rotated(digest, 16) ^ word
    return digest


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _WORD
