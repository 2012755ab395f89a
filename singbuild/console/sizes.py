"""Sizes as people write them."""

from __future__ import annotations

from singbuild.errors import UsageError


def parse_size(text: str) -> int:
    """Return a size in bytes: a number, or one with K, M, G or T (powers of 1024).

    Raises UsageError for anything else.
    """
    digits, unit = text.strip(), 1
    if digits[-1:].upper() in ("K", "M", "G", "T"):
        unit = 1024 ** (1 + "KMGT".index(digits[-1].upper()))
        digits = digits[:-1]
    if not digits.isdecimal():
        raise UsageError(f"{text!r} is not a size", remedy="Write it like 500M or 2G.")
    return int(digits) * unit
