"""A shell inside under a pseudo-terminal behaves as one outside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Iterator

import pytest

from tests import singrun_images as images
from tests.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with images.bench() as made:
        yield made


class Terminal:
    """A child on a terminal of its own, to type at and to read from."""

    def __init__(self, person: Person, *words: str) -> None:
        self.child, self.fd = pty.fork()
        if not self.child:
            os.chdir("/")
            command = person.words(person.launcher, *words)
            os.execvpe(command[0], command, person.environment() | {"TERM": "dumb"})
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until ``pattern`` has come; what came after the last match is kept."""
        until = time.monotonic() + 5
        while not (match := re.search(pattern, self.seen)):
            left = until - time.monotonic()
            assert left > 0, f"no {pattern} in {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen[match.end() :]
        return match[0]

    def status(self) -> int:
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while select.select([self.fd], [], [], 15)[0]:
                os.read(self.fd, 4096)
        os.close(self.fd)  # hangs up whoever is still there
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


@pytest.mark.parametrize("name", ["root, loop", "user"])
@pytest.mark.parametrize("options", [[], ["-p"], ["-c"]])
def test_prompt_interrupt_stop_resize_and_status(
    bench: Bench, name: str, options: list[str]
) -> None:
    terminal = Terminal(bench.people[name], "shell", *options, str(bench.image))
    prompt = re.escape(f"Singularity.{bench.image.name}> ")
    terminal.expect(prompt)
    terminal.type("tty; echo to-$((6 * 7))\n")
    assert "not a tty" not in terminal.expect(r"(?s).*to-42\r\n")
    terminal.expect(prompt)
    terminal.type("sleep 60\n")
    terminal.expect("sleep 60\r\n")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.expect(prompt)
    terminal.type("sleep 61\n")
    terminal.expect("sleep 61\r\n")
    time.sleep(0.3)
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("jobs; fg\n")
    terminal.expect("Stopped +sleep 61\r\nsleep 61\r\n")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.expect(prompt)
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    terminal.type("stty size\n")
    terminal.expect("33 101\r\n")
    terminal.type("exit 23\n")
    assert terminal.status() == 23
    images.wait_for_daemons(str(bench.image))
