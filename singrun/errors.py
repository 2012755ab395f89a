"""What can go wrong, in the user's words.

All errors of singrun's own have the status 255, but for a command line that
is wrong, which has 1. Every other status is the contained program's own.
"""

import os

STATUS = 255


class RunError(Exception):
    """An error that a user can understand and act upon.

    what: one sentence without a full stop, naming the file or word.
    why: the reason, as far as it is known; may be empty.
    remedy: what to do now, in the imperative; may be empty.
    """

    status = STATUS

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.remedy = what, why, remedy

    def __str__(self) -> str:
        parts = (self.what, self.why, self.remedy)
        return "\n".join("  " * (i > 0) + part for i, part in enumerate(parts) if part)


class UsageError(RunError):
    """singrun was called wrongly: an unknown verb or option, a missing word."""

    status = 1


class UnavailableError(RunError):
    """What this host lacks; another way to the same end may be had."""


def nearest(word: str, known: list[str]) -> str:
    """Return the known word most like ``word``, or "" when none is near."""
    import difflib  # an error message may take its time

    return next(iter(difflib.get_close_matches(word, known, n=1)), "")


def say(text: str) -> None:
    """Write ``text`` to standard error, whatever bytes it holds and whether or not it is open."""
    lines = [f"singrun: {line}" for line in text.splitlines()] or ["singrun:"]
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    try:
        os.write(2, data)
    except OSError:  # nobody listens
        return
