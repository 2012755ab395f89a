"""What can go wrong, in the user's words.

All errors of singrun's own have the status 255, but for a command line that
is wrong, which has 1. Every other status is the contained program's own.
"""

import os

# As Singularity and Apptainer end when they cannot start a program.
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
    """A program or device that a strategy needs is missing; another strategy may work."""


def nearest(word: str, words: list[str]) -> str:
    """Return the known word most like ``word``, whatever its case, or "" when none is near."""
    import difflib  # an error message may take its time

    spelled = {name.lower(): name for name in words}
    return spelled.get(next(iter(difflib.get_close_matches(word.lower(), spelled, n=1)), ""), "")


def printable(text: str) -> str:
    r"""Return ``text`` with what a terminal would obey, or what is no character, in \x… form."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # surrogateescape: a byte that is not UTF-8
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    # By hand: the codec unicode_escape is a module, which is not there after pivot_root(2).
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(letter)
    number = ord(letter)
    kind, width = ("x", 2) if number < 1 << 8 else ("u", 4) if number < 1 << 16 else ("U", 8)
    return short or f"\\{kind}{number:0{width}x}"


_manner = ["", ""]


def speak_as(spelling: str, manner: str) -> None:
    """Prefix messages as singularity and apptainer do.

    manner: "quiet" leaves out what is no warning, "silent" what is no error.
    """
    _manner[:] = [spelling, manner]


def spelling() -> str:
    """Return which command was called: "singularity", "apptainer", or "" for singrun."""
    return _manner[0]


def say(text: str, level: str = "WARNING") -> None:
    """Write ``text`` to standard error, whatever it holds and whether or not that is open.

    level: FATAL, WARNING, INFO or DEBUG.
    """
    command, manner = _manner
    if level in {"quiet": ("INFO",), "silent": ("INFO", "WARNING")}.get(manner, ()):
        return
    first = f"{level + ':':9}" if command else "singrun: "
    more = " " * 9 if command else first
    lines = [printable(line) for line in text.split("\n") if line] or [""]
    data = (first + f"\n{more}".join(lines)).rstrip(" ") + "\n"
    try:
        os.write(2, data.encode("utf-8", "surrogateescape"))
    except OSError:  # nobody listens
        return
