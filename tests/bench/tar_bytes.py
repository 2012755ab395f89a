"""Tar archives byte by byte, sound or not: headers, pax records, base-256 numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

BLOCK = 512
END = bytes(2 * BLOCK)
# Offset of each field of a header: POSIX.1-2017, "ustar Interchange Format"; GNU's sparse size.
FIELDS = {
    "name": 0, "mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "kind": 156,
    "link": 157, "magic": 257, "major": 329, "minor": 337, "prefix": 345, "real_size": 483,
}  # fmt: skip


def header(name: bytes, kind: bytes = b"0", size: int = 0, /, **fields: bytes) -> bytes:
    """Return one header with a right checksum. fields: more of FIELDS, as they shall stand."""
    mode = b"0000755\0" if kind == b"5" else b"0000644\0"
    defaults = {"name": name, "kind": kind, "size": b"%011o\0" % size, "magic": b"ustar\x0000"}
    defaults |= {"mode": mode, "uid": b"0000000\0", "gid": b"0000000\0", "mtime": b"00000000000\0"}
    block = bytearray(BLOCK)
    for field, value in (defaults | fields).items():
        at = FIELDS[field]
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block[:BLOCK])


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", /, **fields: bytes) -> bytes:
    """Return a header and what follows it."""
    return header(name, kind, len(data), **fields) + data + bytes(-len(data) % BLOCK)


def directory(name: bytes, /, **fields: bytes) -> bytes:
    """Return a directory's header."""
    return header(name, b"5", 0, **fields)


def link(name: bytes, target: bytes, kind: bytes = b"2", /, **fields: bytes) -> bytes:
    """Return a symbolic link's header, or with kind 1 a hard link's."""
    return header(name, kind, 0, link=target, **fields)


def pax(
    records: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]], kind: bytes = b"x"
) -> bytes:
    """Return a pax header of records. kind: x for the next member, g for all."""
    pairs = records.items() if isinstance(records, Mapping) else records
    return member(b"pax", b"".join(record(key, value) for key, value in pairs), kind)


def record(key: bytes, value: bytes) -> bytes:
    """Return a pax record, whose length counts itself."""
    bare = len(key) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def sparse(name: bytes, text: bytes, real_size: int) -> bytes:
    """Return a sparse file in GNU's form 1.0. text: its map and data, filled up to a block."""
    about = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": name}
    about[b"GNU.sparse.realsize"] = b"%d" % real_size
    return pax(about) + member(b"GNUSparseFile", text + bytes(-len(text) % BLOCK))


def base_256(value: int, length: int = 12) -> bytes:
    """Return a number as GNU tar writes large and negative ones."""
    bits = 8 * length - 1
    return ((value & ((1 << bits) - 1)) | (1 << bits)).to_bytes(length, "big")
