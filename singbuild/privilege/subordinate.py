"""Subordinate ids: what lets an ordinary user give files 65,536 owners, in a user namespace.

The administrator lends a user ranges of ids (subuid(5)); newuidmap(1) and newgidmap(1) put
them into a namespace. Id 0 in there is the caller; ids 1 to 65535 are the range's.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from singbuild import command

FILES = ("/etc/subuid", "/etc/subgid")
PROGRAMS = ("newuidmap", "newgidmap")
COUNT = 65536


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
    found = [_first(Path(name)) for name in FILES]
    return None if None in found else Ranges(*[start for start in found if start is not None])


def missing() -> list[Missing]:
    """Return what is missing for subordinate ids, by the files and programs that are here."""
    found = []
    if [name for name in PROGRAMS if command.which(name) is None]:
        found.append(Missing("newuidmap and newgidmap are not installed", "apt-get install uidmap"))
    line = f"{_name()}:{_free()}:{COUNT}"
    for name in FILES:
        if _first(Path(name)) is None:
            what = f"{name} lends you no {COUNT} ids"
            found.append(Missing(what, f"Ask for this line in {name}: {line}"))
    return found


def lend(pid: int, given: Ranges) -> None:
    """Map the caller to root and the ranges to all others, in the user namespace of a process.

    Raises HostError when the programs are not there or refuse.
    """
    for program, own, first in zip(
        PROGRAMS, (os.geteuid(), os.getegid()), (given.uids, given.gids), strict=True
    ):
        words = [program, *map(str, (pid, 0, own, 1, 1, first, COUNT - 1))]
        command.run(words, package="uidmap")


def _first(path: Path) -> int | None:
    """Return where the caller's first long enough range of a file begins: subuid(5)."""
    names = (_name(), str(os.getuid()))
    for fields in _lines(path):
        if len(fields) == 3 and fields[0] in names and int(fields[2]) >= COUNT:
            return int(fields[1])
    return None


def _free() -> int:
    """Return where the ids end that both files lend to anybody."""
    ends = [int(f[1]) + int(f[2]) for name in FILES for f in _lines(Path(name)) if len(f) == 3]
    return max([100_000, *ends])


def _lines(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    fields = [line.strip().split(":") for line in lines if not line.startswith("#")]
    return [f for f in fields if all(word.isdecimal() for word in f[1:])]


def _name() -> str:
    """Return the caller's name; the number of one who has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
