"""Suggests where to split a %post whose first part could have come from the cache.

The snapshot after a %post knows a digest of each of its lines. When a later build executes a
changed one, the lines before the change are known, and how long they took: with ``%post`` behind
them they would have come from the cache.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence

from singbuild import command
from singbuild.errors import HostError
from singbuild.recipe.recipe import Section
from singbuild.steps.step import digest
from singbuild.tree import shell_state

WORTH = 5.0  # seconds
SHARE = 0.5  # of what the section took
TRIED = 20  # lines
_DIGITS = 12  # hexadecimal, of a line's digest


def lines_of(section: Section) -> list[str]:
    """Return a digest of each line."""
    return [digest(line.text)[:_DIGITS] for line in section.lines]


def hint(
    section: Section, before: Sequence[str], began: Mapping[int, float], seconds: float
) -> str:
    """Return where to split a section, as a sentence; "" where that would have saved little.

    before: the digests of its lines in an earlier build; began: when each line of the recipe
    was read by the shell; seconds: how long all took. Both since the section's begin.
    """
    pairs = enumerate(zip(lines_of(section), before, strict=False))
    same = next(
        (n for n, (now, then) in pairs if now != then), min(len(section.lines), len(before))
    )
    at = _boundary(section, same)
    if not at:
        return ""
    place = section.lines[at].number
    saved = min((time for line, time in began.items() if line >= place), default=seconds)
    if saved < WORTH or saved < SHARE * seconds:
        return ""
    return (
        f"hint: a line %post before line {place} would have kept what is above it in the cache: "
        f"unchanged, and {saved:.0f} s of {seconds:.0f} s"
    )


def _boundary(section: Section, same: int) -> int:
    """Return the last index up to ``same`` at which the section can be parted; 0 for none."""
    lines = [line.text for line in section.lines]
    tries = [n for n in range(min(same, len(lines) - 1), 0, -1) if _begins(lines, n)]
    for n in tries[:TRIED]:
        halves = "\n".join(lines[:n]), "\n".join(lines[n:])
        if all(_is_whole(half) for half in halves) and shell_state.can_end(section, halves[0]):
            return n
    return 0


def _begins(lines: Sequence[str], n: int) -> bool:
    """Whether a line may begin a command, and says something; what is above says something too."""
    return bool(lines[n].strip()) and any(line.strip() for line in lines[:n])


def _is_whole(text: str) -> bool:
    """Whether bash, if the host has it, parses a text by itself; nothing of it is executed.

    dash says nothing of a here-document that does not end.
    """
    with contextlib.suppress(OSError, HostError), tempfile.NamedTemporaryFile("w") as file:
        file.write(text + "\n")
        file.flush()
        done = command.call(["bash", "-n", file.name])
        return done.status == 0 and not done.tail
    return False
