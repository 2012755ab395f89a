"""Numbers in the caller's variables: docs/variables.md has them all.

A word in the place of a number is a mistake of whoever set it, and nobody else's.
"""

from __future__ import annotations

import os
import re

from singbuild.errors import UsageError

LAST_EPOCH = 2**33  # the year 2242; ext3 ends some time after


def count(variable: str, default: int) -> int:
    """Return the whole number in a variable; ``default`` where it is empty or not set.

    Raises UsageError.
    """
    text = os.environ.get(variable) or str(default)
    if not re.fullmatch(r"\d{1,20}", text):  # int() refuses thousands of digits with a ValueError
        raise _malformed(variable, "Set it to a whole number, or unset it.")
    return int(text)


def seconds(variable: str, default: float) -> float:
    """Return the seconds in a variable, more than none; ``default`` where it is empty or not set.

    Raises UsageError.
    """
    text = os.environ.get(variable) or str(default)
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or not float(text):
        raise _malformed(variable, "Set it to seconds, such as 60, or unset it.")
    return float(text)


def epoch() -> int | None:
    """Return SOURCE_DATE_EPOCH, seconds since 1970; None where it is not set. Raises UsageError."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,20}", text) or int(text) > LAST_EPOCH:
        example = "seconds since 1970, such as $(git log -1 --format=%ct)"
        raise _malformed("SOURCE_DATE_EPOCH", f"Set it to {example}, or unset it.")
    return int(text)


def _malformed(variable: str, remedy: str) -> UsageError:
    return UsageError(f"{variable} is {os.environ[variable]!r}", remedy=remedy)
