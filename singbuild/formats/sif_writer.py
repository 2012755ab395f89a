"""The bytes of a SIF: header, table of descriptors, objects. Equal objects give equal bytes.

Layout: github.com/sylabs/sif, pkg/sif/{create,descriptor}.go.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from singrun.images import sif

LAUNCH_LINE = b"#!/usr/bin/env run-singularity\n"
DEFINITION, LABELS, JSON, BILL = 0x4001, 0x4003, 0x4006, 0x4009
SQUASHFS, EXT3 = 1, 2
SPDX = struct.pack("<i", 4)  # format of a bill of materials: SPDX in JSON
HEADER = struct.Struct("<32s10s3s3s16s8q")
DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")
_TABLE, _COUNT = 4096, 48  # offset; descriptors that there is room for
_DATA = _TABLE + _COUNT * DESCRIPTOR.size
_ALIGNMENT = 4096  # of a partition
_GROUP = sif.GROUP | 1  # all objects belong to the first group
_MACHINES = {name: word + b"\0" for word, (name, _) in sif.MACHINES.items()}


@dataclass(frozen=True)
class Part:
    """One object. extra: the fields of its type."""

    kind: int
    size: int
    name: str = ""
    extra: bytes = b""


def machine_word(machine: str) -> bytes:
    """Return a machine as the header has it. machine: as Go calls it."""
    return _MACHINES.get(machine, b"00\0")


def partition(size: int, file_system: int, machine: str) -> Part:
    """Return the partition of the root file system."""
    extra = struct.pack("<ii3s", file_system, sif.PRIMARY, machine_word(machine))
    return Part(sif.PARTITION, size, "", extra)


def offsets(parts: Sequence[Part]) -> list[int]:
    """Return where each object begins."""
    at, places = _DATA, []
    for part in parts:
        at = _aligned(part, at)
        places.append(at)
        at += part.size
    return places


def head(parts: Sequence[Part], digest: bytes, created: int, machine: str) -> bytes:
    """Return header and table. digest: of the objects; created: their date, seconds since 1970."""
    from singbuild.ext3.writer.filesystem import identity  # not loaded to read images

    rows, end = b"", _DATA
    for number, (part, offset) in enumerate(zip(parts, offsets(parts), strict=True), 1):
        rows += DESCRIPTOR.pack(
            part.kind, True, number, _GROUP, 0, offset, part.size, offset - end + part.size,
            created, created, 0, 0, part.name.encode(), part.extra,
        )  # fmt: skip
        end = offset + part.size
    header = HEADER.pack(
        LAUNCH_LINE, b"SIF_MAGIC\0", b"01\0", machine_word(machine), identity(digest).bytes,
        created, created, _COUNT - len(parts), _COUNT, _TABLE, _COUNT * DESCRIPTOR.size,
        _DATA, end - _DATA,
    )  # fmt: skip
    return (header.ljust(_TABLE, b"\0") + rows).ljust(_DATA, b"\0")


def digest_of(file: BinaryIO, begin: int) -> bytes:
    """Return the SHA-256 of a file's bytes from ``begin`` on."""
    total = hashlib.sha256()
    file.seek(begin)
    while piece := file.read(1 << 20):
        total.update(piece)
    return total.digest()


def _aligned(part: Part, offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT if part.kind == sif.PARTITION else offset
