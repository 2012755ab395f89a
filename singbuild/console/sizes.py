"""Sizes as people write them."""

from __future__ import annotations

import re

from singbuild.errors import UsageError

_SIZE = re.compile(r"\s*(\d{1,18})\s*(?:([KMGT])(?:I?B)?|(B))?\s*", re.IGNORECASE)


def parse_size(text: str, *, unit: int = 1) -> int:
    """Return a size in bytes: a number, or one with K, M, G or T (powers of 1024, also as GiB).

    unit: bytes that a number alone counts. Raises UsageError for anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", remedy="Write it like 500M or 2G.")
    if match[2]:
        unit = 1024 ** (1 + "KMGT".index(match[2].upper()))
    elif match[3]:
        unit = 1
    return int(match[1]) * unit


def binary(size: int) -> str:
    """Return a number of bytes for people: 8.4 MiB."""
    amount, units = float(size), iter(("KiB", "MiB", "GiB", "TiB"))
    if size < 1024:
        return f"{size} B"
    while amount >= 1024:
        amount, name = amount / 1024, next(units, "PiB")
    return f"{amount:.1f} {name}"
