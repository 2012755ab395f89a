"""README and the pages: no command stands there that is neither executed nor marked with a reason.

tests/host/pages and tests/long/test_pages.py execute the blocks. Here are the commands within
lines, which are held against the commands' own options.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache

import click

from singbuild.cli.main import commands
from singrun import options
from tests.bench import pages
from tests.bench.singrun_images import PYTHON, ROOT

BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page)]
OURS = re.compile(r"^(\$ |sing(build|run) |\./\S+\.img )", re.M)


def test_every_block_of_commands_says_that_it_is_one() -> None:
    plain = [b for b in BLOCKS if not b.language and "file" not in b.words]
    assert [block.place for block in plain if OURS.search(block.text)] == []


def test_the_other_test_is_there() -> None:
    for block in BLOCKS:
        for name in re.findall(r"tests/[\w/]+(?:\.py)?", block.reason):
            assert (ROOT / name).exists(), block.place


def test_most_commands_are_executed() -> None:
    commands = [b for b in BLOCKS if b.language in pages.COMMANDS]
    left_out = [b.place for b in commands if "not here" in b.words]
    assert len(left_out) < len(commands) / 3, left_out


def inline(program: str) -> list[tuple[str, list[str]]]:
    """The commands of a program that stand within lines: where, and their words."""
    return [
        (str(page.relative_to(ROOT)), re.split(r"[ |]+", text))
        for page in [*pages.PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
        for text in re.findall(rf"`{program} ([^`]+)`", page.read_text())
    ]


def names(words: list[str]) -> set[str]:
    """The long options among words."""
    return {word.partition("=")[0].partition("[")[0] for word in words if re.match(r"--\w", word)}


def test_every_option_of_singbuild_in_a_line_is_one() -> None:
    wrong = []
    for where, words in inline("singbuild"):
        command: click.Command = commands.commands["build"]
        for word in words:
            inner = commands if command is commands.commands["build"] else command
            if isinstance(inner, click.Group) and word in inner.commands:
                command = inner.commands[word]
        options = {o for part in (commands, command) for p in part.params for o in p.opts}
        options |= {o for p in command.params for o in p.secondary_opts} | {"--help", "--version"}
        if isinstance(command, click.Group):
            options |= {o for c in command.commands.values() for p in c.params for o in p.opts}
        wrong += [(where, " ".join(words), name) for name in names(words) - options]
    assert wrong == []


@cache
def told_by(verb: str) -> str:
    words = [PYTHON, "-IS", str(ROOT / "singrun/__main__.py"), verb, "--help"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_every_option_of_singrun_in_a_line_is_one() -> None:
    launch = {f"--{name}" for name in (*options.FLAGS, *options.VALUES)} | {"--help", "--version"}
    wrong = []
    for where, words in inline("singrun"):
        before = words[
            : next((n for n, w in enumerate(words) if w in ("IMAGE", "image.img")), None)
        ]
        unknown = names(before) - launch
        wrong += [(where, words, name) for name in unknown if name not in told_by(words[0])]
    assert wrong == []
