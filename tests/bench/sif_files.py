"""SIF files written from the format's description, so that our readers and writer meet another."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LAUNCH = b"#!/usr/bin/env run-singularity\n\0"
HEADER = struct.Struct("<32s10s3s3s16s8q")
DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")
TABLE, COUNT = 4096, 48
DEFFILE, LABELS, PARTITION, JSON, SBOM, OCI_BLOB = 0x4001, 0x4003, 0x4004, 0x4006, 0x4009, 0x400B
SQUASHFS, EXT3, ENCRYPTED = 1, 2, 5
SYSTEM, PRIMARY, DATA, OVERLAY = 1, 2, 3, 4
AMD64, ARM64 = b"02\0", b"04\0"
HOST = {"x86_64": AMD64, "aarch64": ARM64}.get(os.uname().machine, b"00\0")


class Object(NamedTuple):
    """One object of a SIF. extra: what its type says of it."""

    kind: int
    content: bytes
    extra: bytes = b""
    name: bytes = b""


def partition(content: bytes, fs: int, part: int = PRIMARY, arch: bytes = AMD64) -> Object:
    """Return a partition."""
    return Object(PARTITION, content, struct.pack("<ii3s", fs, part, arch))


def written(path: Path, objects: Sequence[Object], arch: bytes = AMD64) -> Path:
    """Write a SIF, as siftool does."""
    at = begin = TABLE + COUNT * DESCRIPTOR.size
    rows, body = b"", bytearray()
    for number, each in enumerate(objects, 1):
        place = -(-at // 4096) * 4096 if each.kind == PARTITION else at
        body += bytes(place - at) + each.content
        size = len(each.content)
        rows += DESCRIPTOR.pack(
            each.kind, True, number, 0xF0000001, 0, place, size, place - at + size, 0, 0, 0, 0,
            each.name, each.extra,
        )  # fmt: skip
        at = place + size
    head = HEADER.pack(
        LAUNCH, b"SIF_MAGIC\0", b"01\0", arch, bytes(16), 0, 0, COUNT - len(objects), COUNT, TABLE,
        COUNT * DESCRIPTOR.size, begin, at - begin,
    )  # fmt: skip
    path.write_bytes((head.ljust(TABLE, b"\0") + rows).ljust(begin, b"\0") + body)
    path.chmod(0o755)
    return path
