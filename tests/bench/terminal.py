"""A pseudo-terminal with a program on it, to type at and to read from."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import termios
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.host import PATIENCE, wait_until


class Terminal:
    """A child on a terminal of its own. become: executes the program, in the child."""

    def __init__(self, become: Callable[[], object]) -> None:
        self.child, self.fd = pty.fork()
        if not self.child:
            try:
                become()
            finally:
                os._exit(127)
        termios.tcsetwinsize(self.fd, (33, 101))
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until the pattern has come; what came after the match is kept."""
        until = time.monotonic() + 60 * PATIENCE
        while not (match := re.search(pattern, self.output)):
            seconds = until - time.monotonic()
            assert seconds > 0, f"no {pattern} in {self.output!r}"
            if self._has_news(seconds):
                self.output += os.read(self.fd, 4096).decode(errors="replace")
        self.output = self.output[match.end() :]
        return match[0]

    def _has_news(self, seconds: float) -> bool:
        """Wait until there is something to read."""
        news = select.poll()  # select(2) knows no descriptor from 1024 on
        news.register(self.fd)
        return bool(news.poll(seconds * 1000))

    def wait_for_foreground(self, program: str) -> None:
        """Wait until a program runs in the foreground and sleeps: then a key's signal is its own.

        tcgetpgrp(3) works on the master's side too; proc(5), stat, fields 2 and 3.
        """

        def is_there() -> bool:
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{os.tcgetpgrp(self.fd)}/stat").read_text()
                name, _, fields = stat.partition("(")[2].rpartition(")")
                return name == program and fields.split()[0] == "S"
            return False

        wait_until(is_there)

    def status(self) -> int:
        """Read what is left, hang up, and return how the child ended; see ``output``."""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while self._has_news(15 * PATIENCE) and (piece := os.read(self.fd, 4096)):
                self.output += piece.decode(errors="replace")
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
