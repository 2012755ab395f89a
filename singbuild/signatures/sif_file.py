"""Signatures in a SIF, as Apptainer makes them: one for each group of objects, of PGP or DSSE.

What is signed: github.com/sylabs/sif, pkg/integrity/{metadata,sign}.go; which fields of a
descriptor: GetIntegrityReader in pkg/sif/descriptor.go. The table is hostile until it is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from singbuild.errors import ImageError
from singbuild.formats.sif_writer import DESCRIPTOR, HEADER
from singrun.errors import RunError
from singrun.images import sif
from singrun.images.sif import GROUP, SIGNATURE

_SHA256 = 1  # <pkg/sif/descriptor.go>, hashSHA256
_LARGEST = 1 << 20  # bytes of a signature
_PIECE = 1 << 20
_INTEGRITY = struct.Struct("<i?IIqqqq")
_FINGERPRINT = 20  # bytes


@dataclass(frozen=True)
class Row:
    """One descriptor. number: its place in the table; fields in the order of the file."""

    number: int
    kind: int
    used: bool
    id: int
    group: int
    link: int
    offset: int
    size: int
    padded: int
    created: int
    modified: int
    uid: int
    gid: int
    name: bytes
    extra: bytes

    def digest(self, first: int) -> str:
        """Return the digest of what of it is signed. first: the least id of its group."""
        fields = (self.kind, self.used, self.id - first, self.link)
        packed = _INTEGRITY.pack(*fields, self.size, self.created, self.uid, self.gid)
        return f"sha256:{hashlib.sha256(packed + self.name + self.extra).hexdigest()}"

    @property
    def is_root(self) -> bool:
        """Whether it is the partition of the root file system."""
        return self.kind == sif.PARTITION and self.extra[4:8] == struct.pack("<i", sif.PRIMARY)


class SifFile:
    """An open SIF. Raises ImageError for one that is damaged."""

    def __init__(self, path: str, fd: int) -> None:
        self.path, self._fd = path, fd
        head, size = os.pread(fd, HEADER.size, 0), os.fstat(fd).st_size
        try:
            sif.primary(path, sif.objects(path, fd, head, size))
        except RunError as error:
            raise ImageError(error.what, why=error.why, remedy=error.remedy) from error
        self._head = list(HEADER.unpack(head))
        count, self._table = self._head[8], self._head[9]
        table = os.pread(fd, count * DESCRIPTOR.size, self._table)
        if {*table[4 :: DESCRIPTOR.size]} - {0, 1}:
            raise self.damaged("Its table has a descriptor that is neither used nor free.")
        rows = enumerate(DESCRIPTOR.iter_unpack(table))
        self.rows = [row for row in (Row(n, *fields) for n, fields in rows) if row.used]
        self._free = [n for n in range(count) if n not in {row.number for row in self.rows}]
        if not 0 <= self._head[11] <= size:
            raise self.damaged("Its header says that its objects begin outside the file.")
        if sum(row.size for row in self.rows) > size:
            raise self.damaged("Its objects lie in one another.")
        if len({row.id for row in self.rows}) != len(self.rows):
            raise self.damaged("Two of its objects have one number.")

    @property
    def others(self) -> list[Row]:
        """The objects that are no signatures."""
        return [row for row in self.rows if row.kind != SIGNATURE]

    def has_content_of(self, earlier: SifFile) -> bool:
        """Whether header and objects, but for signatures, are those of an earlier look."""
        return (self._head[:5], self.others) == (earlier._head[:5], earlier.others)

    def damaged(self, why: str) -> ImageError:
        """Make the error for a SIF that is not in order."""
        return ImageError(f"The SIF {self.path} is damaged", why=why)

    @property
    def groups(self) -> list[int]:
        """The groups of objects, in ascending order."""
        return sorted({row.group for row in self.rows if row.group & ~GROUP and row.group})

    def members(self, group: int) -> list[Row]:
        """Return the objects of a group, by number."""
        return sorted((row for row in self.rows if row.group == group), key=lambda row: row.id)

    def has_root(self, group: int) -> bool:
        """Whether the root file system is in a group."""
        return any(row.is_root for row in self.members(group))

    def metadata(self, group: int) -> dict[str, Any]:
        """Return what a signature of a group signs."""
        launch, magic, version, _, identity = self._head[:5]
        header = hashlib.sha256(launch + magic + version + identity).hexdigest()
        members = self.members(group)
        first = members[0].id
        objects = [
            {
                "relativeId": row.id - first,
                "descriptorDigest": row.digest(first),
                "objectDigest": self._digest(row),
            }
            for row in members
        ]
        return {"version": 1, "header": {"digest": f"sha256:{header}"}, "objects": objects}

    def text(self, group: int) -> bytes:
        """Return the same as the JSON that Go writes."""
        return json.dumps(self.metadata(group), separators=(",", ":")).encode()

    def is_true(self, payload: bytes, group: int) -> bool:
        """Whether a signed payload describes a group as it is now."""
        try:
            return bool(json.loads(payload) == self.metadata(group))
        except (ValueError, RecursionError):
            return False

    def _digest(self, row: Row) -> str:
        total, at, rest = hashlib.sha256(), row.offset, row.size
        while rest and (piece := os.pread(self._fd, min(rest, _PIECE), at)):
            total.update(piece)
            at, rest = at + len(piece), rest - len(piece)
        return f"sha256:{total.hexdigest()}"

    def signatures(self) -> list[tuple[int, bytes]]:
        """Return all signatures: the group that each is of, 0 for none, and its bytes."""
        rows = []
        for row in self.rows:
            if row.kind == SIGNATURE:
                if row.size > _LARGEST:
                    raise self.damaged("One of its signatures is longer than a mebibyte.")
                rows.append((row.link, os.pread(self._fd, row.size, row.offset)))
        return rows

    def add(self, signatures: Sequence[tuple[int, bytes, bytes]], now: int) -> None:
        """Append signatures: the group, its bytes, and the fingerprint of a PGP key or b"".

        now: seconds since 1970. Raises ImageError: the table is full.
        """
        if len(self._free) < len(signatures):
            raise ImageError(f"{self.path} has no room for another signature in its table")
        rows = []
        # Not where the header says that they end, which may be within one.
        offset = max(row.offset + row.size for row in self.rows)
        for number, (group, data, fingerprint) in zip(self._free, signatures, strict=False):
            os.pwrite(self._fd, data, offset)
            extra = struct.pack("<i", _SHA256) + fingerprint.ljust(256, b"\0")
            fields = (SIGNATURE, True, number + 1, 0, group, offset, len(data), len(data))
            row = DESCRIPTOR.pack(*fields, now, now, 0, 0, b"part of a signed group", extra)
            rows.append((number, row))
            offset += len(data)
        self._head[6], self._head[7] = now, len(self._free) - len(rows)
        self._head[12] = max(offset - self._head[11], 0)
        os.fsync(self._fd)
        # In this order: an object that no descriptor names does no harm, if we are killed here.
        os.pwrite(self._fd, HEADER.pack(*self._head), 0)
        for number, row in rows:
            os.pwrite(self._fd, row, self._table + number * DESCRIPTOR.size)
        os.fsync(self._fd)

    def remove_signatures(self) -> int:
        """Remove all signatures; return how many there were.

        A file that was signed after it was made gets the bytes that it had before.
        """
        signature_rows = [row for row in self.rows if row.kind == SIGNATURE]
        if not signature_rows:
            return 0
        end = max(row.offset + row.size for row in self.others)
        self._head[6] = max(row.modified for row in self.others)
        self._head[7] = len(self._free) + len(signature_rows)
        self._head[12] = max(end - self._head[11], 0)
        # In this order: an object that no descriptor names does no harm, if we are killed here.
        for row in signature_rows:
            os.pwrite(self._fd, bytes(DESCRIPTOR.size), self._table + row.number * DESCRIPTOR.size)
        os.pwrite(self._fd, HEADER.pack(*self._head), 0)
        # No descriptor may be left on the disk that names what the next line cuts off.
        os.fsync(self._fd)
        if all(row.offset >= end for row in signature_rows):
            os.ftruncate(self._fd, end)
        return len(signature_rows)


def is_sif(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a SIF."""
    return head[32:].startswith(b"SIF_MAGIC\0")


def fingerprint_bytes(hexadecimal: str) -> bytes:
    """Return a PGP key's fingerprint as a descriptor has it; b"" where it is longer."""
    data = bytes.fromhex(hexadecimal)
    return data if len(data) == _FINGERPRINT else b""
