r"""Tells which line of a script failed, from what ``sh -exv`` prints.

Debian's dash is built without ``$LINENO``, so a line number cannot be asked
for. But every shell, told ``-v``, prints each line as it reads it, and reads
no further than the command it executes: the last lines printed before the end
are the command that failed. ``-x`` then tells which part of it.
"""

from __future__ import annotations

import re
import time

_WORDS = re.compile(r"[\w./:-]+")
LOOKAHEAD = 8  # lines searched when output without a newline has swallowed one


class Trace:
    """Follows the output of one script.

    lines: the script's lines, line 1 first. began: when each was read, by index, in seconds.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self.began: dict[int, float] = {}
        self._read = 0  # lines that the shell has read
        self._start = 0  # where the command read last begins
        self._reading = False
        self._command = ""  # the command traced last

    def shown(self, line: str) -> str | None:
        """Return what of a line the user should see, None when it only echoes the script."""
        echoed = self._echoed(line)
        if echoed is None:
            self._reading = False
            if match := re.match(r"\++ (.*)", line):
                self._command = match[1]
            return line
        self.began[echoed] = time.monotonic()
        # Not by a blank line, as also comes of a pipeline's processes that print at the same time.
        if not self._reading and self._is_code(echoed):
            self._start, self._reading = echoed, True
        self._read = echoed + 1
        return line.removesuffix(self._lines[echoed]) or None

    @property
    def failed(self) -> int:
        """The line, counted from 1, of the last command that was executed; 0 before the first."""
        candidates = [n for n in range(self._start, self._read) if self._is_code(n)]
        return max(candidates, key=lambda n: (self._likeness(n), -n), default=-1) + 1

    def _echoed(self, line: str) -> int | None:
        """Return the index of the script's line that this output line ends with, or None."""
        for index in range(self._read, min(self._read + LOOKAHEAD, len(self._lines))):
            text = self._lines[index]
            if line == text and (text or index == self._read):
                return index
            # "printf x" leaves its output on the line that the shell echoes next.
            if index == self._read and text.strip() and line.endswith(text):
                return index
        return None

    def _is_code(self, index: int) -> bool:
        return not re.match(r"\s*(#|$)", self._lines[index])

    def _likeness(self, index: int) -> tuple[bool, int]:
        """Whether a line has the traced command's name, and how many of its words."""
        words = set(_WORDS.findall(self._lines[index]))
        command = _WORDS.findall(self._command)
        return bool(words.intersection(command[:1])), len(words.intersection(command))
