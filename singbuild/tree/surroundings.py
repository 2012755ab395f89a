"""The clock and host name that programs of an image see: others, in a check's second build.

The clock is libfaketime's, loaded before the C library of programs that are linked dynamically.
It breaks programs of another C library, so it is tried in each tree first. Static programs see the
host's clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = "libfaketime.so.1"
PLACES = ("/usr/lib/*/faketime", "/usr/lib*/faketime", "/usr/local/lib/faketime")
NAME = ".singbuild-clock"  # in /dev, which goes when the program has ended
LATER = 25 * 3600  # seconds: another day, hour and name of the day; signatures are still valid


@dataclass(frozen=True)
class Surroundings:
    """A host as programs see it.

    clock: libfaketime's bytes, b"" for the host's own clock; hostname: "" for the host's; witness:
    a file that is made when a program was seen to have the other clock.
    """

    clock: bytes = b""
    hostname: str = ""
    witness: Path | None = None
    _tried: dict[Path, bool] = field(default_factory=dict)

    @property
    def files(self) -> Mapping[str, bytes]:
        """Return files of /dev, by name."""
        return {NAME: self.clock} if self.clock else {}

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables that load the other clock: faketime(1)."""
        return {
            "LD_PRELOAD": f"/dev/{NAME}",
            "FAKETIME": f"+{LATER}",
            # utimensat(2) sets the times that it gets: stat(2) must return the same.
            "NO_FAKE_STAT": "1",
            # Timeouts are measured by the monotonic clock. Older versions have the second name.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def takes_clock(self, root: Path) -> bool:
        """Whether programs of this tree can be given the other clock."""
        return self._tried.get(root, False)

    def note_attempt(self, root: Path, status: int, tail: Sequence[str]) -> None:
        """Note whether ``date +%s`` had the other clock: by its status and last lines."""
        self._tried[root] = status == 0 and len(tail) == 1 and tail[0].isdecimal()
        if self.witness and self._tried[root] and int(tail[0]) > time.time() + LATER / 2:
            self.witness.touch()


now = Surroundings()


@contextlib.contextmanager
def within(surroundings: Surroundings) -> Iterator[None]:
    """Let programs of an image have these surroundings for the time of a with-block."""
    global now
    before, now = now, surroundings
    try:
        yield
    finally:
        now = before


def library() -> bytes:
    """Return the host's libfaketime, b"" where it is not installed."""
    for pattern in PLACES:
        for path in sorted(Path("/").glob(f"{pattern[1:]}/{LIBRARY}")):
            return path.read_bytes()
    return b""
