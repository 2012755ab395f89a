"""docs/first-image.md, typed line by line as an ordinary user."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.builds import User
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root
PAGE = ROOT / "docs/first-image.md"
END = "\x1e"
"""Printed after each command: what separates their answers."""


def session() -> list[tuple[str, str]]:
    """Each command of the page, with its here-document, and the answer that the page shows."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    command = r"^\$ ((?:.* << 'END'\n(?:.*\n)*?END|.*)\n)((?:(?!\$ ).*\n)*)"
    return [found for block in blocks for found in re.findall(command, block, re.M)]


def pattern(answer: str) -> str:
    """A regular expression for an answer: "…" is any text, alone in its line any lines."""
    lines = answer.splitlines(keepends=True)
    return "".join(
        "(?:.*\n)*" if line == "…\n" else re.escape(line).replace("…", ".*") for line in lines
    )


def test_every_line_of_the_page_gives_the_answer_that_it_shows(user: User) -> None:
    commands = session()
    assert len(commands) > 10
    script = "".join(f"{command}printf '%s' '{END}'\n" for command, _ in commands)
    programs = f"{Path(sys.executable).parent}:{user.env['PATH']}"
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=user.directory,
        env=user.env | {"PATH": programs, "SINGRUN_CACHEDIR": f"{user.directory}/unpacked"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        **user.become(),
    )
    answers = done.stdout.split(END)
    for (command, answer), given in zip(commands, answers, strict=False):
        assert re.fullmatch(pattern(answer), given), f"$ {command}{given}"
