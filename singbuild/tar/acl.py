"""Default access control lists, as far as a new directory inherits them: acl(5).

Knows the value that getxattr(2) gives: linux/posix_acl_xattr.h.
"""

import struct
from collections.abc import Mapping

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # tag, permissions, id
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


def inherited(attributes: Mapping[str, bytes]) -> tuple[int, dict[str, bytes]] | None:
    """Return the mode and the attributes that mkdir(2) with mode 0777 gives to a new directory.

    attributes: of the directory that it is made in. None without a default list there: then the
    umask counts.
    """
    value = attributes.get(DEFAULT, b"")
    size = len(value) - len(_VERSION)
    if not value.startswith(_VERSION) or size <= 0 or size % _ENTRY.size:
        return None
    entries = {tag: bits for tag, bits, _ in _ENTRY.iter_unpack(value[len(_VERSION) :])}
    group = entries.get(_MASK, entries.get(_GROUP_OBJ, 0))
    mode = (entries.get(_USER_OBJ, 0) << 6 | group << 3 | entries.get(_OTHER, 0)) & 0o777
    is_minimal = entries.keys() <= {_USER_OBJ, _GROUP_OBJ, _OTHER}  # it says what the mode does
    return mode, {DEFAULT: value} if is_minimal else {DEFAULT: value, ACCESS: value}
