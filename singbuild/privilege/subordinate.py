"""Subordinate ids: what lets an ordinary user give files 65,536 owners, in a user namespace.

The administrator lends a user ranges of ids (subuid(5)); newuidmap(1) and newgidmap(1) put
them into a namespace. Id 0 in there is the caller; ids 1 to 65535 are the range's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from singbuild import command
from singrun.subordinate import COUNT, FILES, first, lines, user

PROGRAMS = ("newuidmap", "newgidmap")


@dataclass(frozen=True)
class Ranges:
    """The first user and group ids of the caller's ranges, each 65,536 long."""

    uids: int
    gids: int


@dataclass(frozen=True)
class Missing:
    """A prerequisite that this host lacks. remedy: what to type, or whom to ask for what."""

    what: str
    remedy: str


def ranges() -> Ranges | None:
    """Return the caller's ranges, None when there are none that are long enough."""
    firsts = [first(name) for name in FILES]
    return None if None in firsts else Ranges(*[start for start in firsts if start is not None])


def missing() -> list[Missing]:
    """Return what is missing for subordinate ids, by the files and programs that are here."""
    reasons = []
    if [name for name in PROGRAMS if command.which(name) is None]:
        reasons.append(
            Missing("newuidmap and newgidmap are not installed", "apt-get install uidmap")
        )
    line = f"{user()}:{_free()}:{COUNT}"
    for name in FILES:
        if first(name) is None:
            what = f"{name} lends you no {COUNT} ids"
            reasons.append(Missing(what, f"Ask for this line in {name}: {line}"))
    return reasons


def lend(pid: int, ids: Ranges) -> None:
    """Map the caller to root and the ranges to all others, in the user namespace of a process.

    Raises HostError when the programs are not there or refuse.
    """
    for program, own, start in zip(
        PROGRAMS, (os.geteuid(), os.getegid()), (ids.uids, ids.gids), strict=True
    ):
        words = [program, *map(str, (pid, 0, own, 1, 1, start, COUNT - 1))]
        command.run(words, package="uidmap")


def _free() -> int:
    """Return where the ids end that both files lend to anybody."""
    ends = [int(f[1]) + int(f[2]) for name in FILES for f in lines(name) if len(f) == 3]
    return max([100_000, *ends])
