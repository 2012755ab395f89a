"""CONTRIBUTING's grammar of the command line holds for every command of singbuild."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import click
import pytest

from singbuild.cli.grammar import Command
from singbuild.cli.main import commands
from tests.unit.test_first_words import every_command

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def found(words: tuple[str, ...]) -> click.Command:
    command: click.Command = commands
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


LEAVES = [w for w in every_command(commands) if not isinstance(found(w), click.Group)]
OPTIONS = [
    (" ".join(words), option)
    for words in LEAVES
    for option in found(words).params
    if isinstance(option, click.Option)
]


def documented() -> dict[str, str]:
    """The letters of the table in CONTRIBUTING, with their long forms."""
    rows = re.findall(r"^\| `-(\w)`, `--([\w-]+)` \|", PAGE, re.M)
    assert rows
    return dict(rows)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_shows_how_it_is_typed(words: tuple[str, ...]) -> None:
    command = found(words)
    assert isinstance(command, Command)
    assert command.examples
    for example in command.examples:
        assert re.search(rf"\bsingbuild\b.*\b{words[-1]}\b|singbuild .*\.def .*\.img", example)
    assert (command.help or "").split("\n")[0].endswith((".", ","))


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda each: str(each))
def test_every_option_is_explained_in_a_sentence(command: str, option: click.Option) -> None:
    assert (option.help or "").endswith(".")
    if not option.is_flag and isinstance(option.default, str) and option.default:
        assert option.show_default or "default" in (option.help or "")


def test_a_letter_means_one_thing_everywhere() -> None:
    letters: dict[str, set[str]] = defaultdict(set)
    for _, option in OPTIONS:
        long = [name[2:] for name in option.opts if name.startswith("--")]
        for name in option.opts:
            if not name.startswith("--"):
                letters[name[1:]].add(long[0])
    for letter, name in documented().items():
        assert letters.get(letter, {name}) == {name}
    of_singularity = {"f", "s", "u"}
    assert {*letters} <= {*documented(), *of_singularity}


def test_what_prints_events_or_progress_can_be_quiet() -> None:
    for words in LEAVES:
        names = {name for parameter in found(words).params for name in parameter.opts}
        if "--force" in names:
            assert "-F" in names, words
        if "--quiet" in names:
            assert "-q" in names, words


def test_sizes_are_of_one_type() -> None:
    for name, option in OPTIONS:
        if option.metavar == "SIZE":
            assert option.type.name == "size", name
