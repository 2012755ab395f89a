"""CONTRIBUTING's grammar of the command line holds for every command of singbuild."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import click
import pytest

from singbuild.cli.grammar import Command
from singbuild.cli.main import commands
from singrun.verbs import manual, strangers
from tests.unit.test_first_words import every_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = commands
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


LEAVES = [w for w in every_command(commands) if not isinstance(command_of(w), click.Group)]
OPTIONS = [
    (" ".join(words), option)
    for words in LEAVES
    for option in command_of(words).params
    if isinstance(option, click.Option)
]


def documented() -> dict[str, str]:
    """The letters of the table in CONTRIBUTING, with their long forms."""
    rows = re.findall(r"^\| `-(\w)`, `--([\w-]+)` \|", PAGE, re.M)
    assert rows
    return dict(rows)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_shows_how_it_is_typed(words: tuple[str, ...]) -> None:
    command = command_of(words)
    assert isinstance(command, Command)
    assert command.examples
    for example in command.examples:
        assert re.search(rf"\bsingbuild\b.*\b{words[-1]}\b|singbuild .*\.def .*\.img", example)
    assert (command.help or "").split("\n")[0].endswith((".", ","))


def test_every_option_is_explained_in_a_sentence() -> None:
    for command, option in OPTIONS:
        assert (option.help or "").endswith("."), (command, option)
        if not option.is_flag and isinstance(option.default, str) and option.default:
            assert option.show_default or "default" in (option.help or ""), (command, option)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_help_lists_every_option(words: tuple[str, ...]) -> None:
    command = command_of(words)
    text = command.get_help(click.Context(command, info_name=words[-1]))
    listed = [name for line in text.splitlines() for name in re.findall(r"^  (-.*)", line)]
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert any(re.search(rf"{re.escape(option.opts[-1])}\b", line) for line in listed)


def test_a_letter_means_one_thing_everywhere() -> None:
    letters: dict[str, set[str]] = defaultdict(set)
    for _, option in OPTIONS:
        long = [name[2:] for name in option.opts if name.startswith("--")]
        for name in option.opts:
            if not name.startswith("--"):
                letters[name[1:]].add(long[0])
    for letter, name in documented().items():
        assert letters.get(letter, {name}) == {name}
    of_singularity = {"B", "f", "s", "u"}
    assert {*letters} <= {*documented(), *of_singularity}


def test_what_prints_events_or_progress_can_be_quiet() -> None:
    for words in LEAVES:
        names = {name for parameter in command_of(words).params for name in parameter.opts}
        if "--force" in names:
            assert "-F" in names, words
        if "--quiet" in names:
            assert "-q" in names, words


@pytest.mark.parametrize(
    "line",
    ["instances", "config show", "cache list", "cache du", "cache clean --dry-run", "doctor"],
)
def test_an_answer_of_singrun_in_json_is_one_object(line: str, tmp_path: Path) -> None:
    place = {"SINGRUN_CACHEDIR": f"{tmp_path}/own", "SINGBUILD_CACHEDIR": f"{tmp_path}/other"}
    words = [str(ROOT / "bin/singrun"), *line.split(), "--json"]
    done = subprocess.run(words, env=os.environ | place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert [*answer][:2] == ["version", "command"]
    assert (answer["version"], answer["command"]) == (1, line.removesuffix(" --dry-run"))


def test_a_plan_in_json_is_one_object(tmp_path: Path) -> None:
    recipe = tmp_path / "a.def"
    recipe.write_text("Bootstrap: busybox\n%post\n    true\n")
    words = [sys.executable, "-m", "singbuild", "plan", "--json", str(recipe)]
    answer = json.loads(subprocess.check_output(words))
    assert (answer["version"], answer["command"], answer["bootstrap"]) == (1, "plan", "busybox")
    assert {"name": "post", "reason": "line 2: %post, 1 line"}.keys() == answer["steps"][0].keys()
    assert "post" in [step["name"] for step in answer["steps"]]


@pytest.mark.parametrize("verb", manual.VERBS)
def test_every_verb_of_singrun_shows_how_it_is_typed(verb: str) -> None:
    _, what, examples = manual.VERBS[verb]
    assert what.partition(". ")[0].rstrip(".")
    assert any(re.search(rf"\bsingrun\b.*\b{verb}\b", example) for example in examples)
    text = manual.text(verb)
    assert text.startswith(f"Usage: singrun {verb}")
    assert "Exit status" in text
    for name in manual.options_of(verb):
        assert f"--{name}" in text


def test_singrun_knows_every_command_of_singbuild() -> None:
    for name in {*commands.commands} - {*manual.VERBS}:
        assert strangers.no_verb(name).why == f"Did you mean singbuild {name}?"
    assert strangers.no_verb("instanec").why == "Did you mean instance?"


def test_sizes_are_of_one_type() -> None:
    for name, option in OPTIONS:
        if option.metavar == "SIZE":
            assert option.type.name == "size", name
