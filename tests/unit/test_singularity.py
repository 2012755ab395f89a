"""The command of 2.x: every way to ask for help, wrong words, and words that pass through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singrun import options
from singrun.verbs import manual
from tests.bench.singrun_images import ROOT

CHANGING = ("create", "bootstrap", "copy", "import", "export", "pull", "expand", "shrink")
DISPATCHER = ROOT / "bin/singularity"


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """The dispatcher beside a singrun and a singbuild that print their words, one a line."""
    (tmp_path / "singularity").write_text(DISPATCHER.read_text())
    for name in ("singrun", "singbuild"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
    for each in tmp_path.iterdir():
        each.chmod(0o755)
    return tmp_path / "singularity"


def said(*words: str | Path) -> list[str]:
    return subprocess.check_output(words, text=True).splitlines()


def singularity(*words: str) -> subprocess.CompletedProcess[str]:
    """The dispatcher with the real commands."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [DISPATCHER, *words], capture_output=True, text=True, env=os.environ | {"PATH": path}
    )


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (
            ["exec", "a b.img", "echo", "'x  y'", ""],
            ["singrun", "exec", "a b.img", "echo", "'x  y'", ""],
        ),
        (["-d", "shell", "i"], ["singrun", "shell", "--debug", "i"]),
        (["-v", "--debug", "run", "i", "-d"], ["singrun", "run", "--debug", "i", "-d"]),
        (["-q", "create", "-s", "3", "i"], ["singbuild", "create", "--quiet", "-s", "3", "i"]),
        (["--silent", "bootstrap", "i", "d"], ["singbuild", "bootstrap", "--quiet", "i", "d"]),
        (["copy", "i", "-a", "s", "d"], ["singbuild", "copy", "i", "-a", "s", "d"]),
        (["help", "exec"], ["singrun", "exec", "--help"]),
        (["exec", "help"], ["singrun", "exec", "--help"]),
        (["help", "create"], ["singbuild", "create", "--help"]),
        (["expand", "help"], ["singbuild", "expand", "--help"]),
        (["mount", "-h"], ["singrun", "mount", "-h"]),
        (["--version"], ["singrun", "--version"]),
        (["xyzzy", "i"], ["singrun", "xyzzy", "i"]),
    ],
)
def test_words_pass_untouched(beside: Path, words: list[str], passed: list[str]) -> None:
    assert said(beside, *words) == passed


def test_the_dispatcher_is_found_through_links(beside: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(beside)
    assert said(link, "test", "i") == ["singrun", "test", "i"]


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str]) -> None:
    done = singularity(*words)
    assert done.returncode == 0
    for verb in ("exec", "shell", "run", "test", "create", "bootstrap", "import", "mount"):
        assert verb in done.stdout


@pytest.mark.parametrize("verb", [*manual.VERBS, *CHANGING, "inspect"])
def test_each_command_has_usage_and_examples(verb: str) -> None:
    done = singularity(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f" {verb} " in done.stdout.splitlines()[0]
    assert "Example" in done.stdout
    assert singularity("help", verb).stdout == done.stdout
    assert singularity(verb, "help").stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["creat", "x.img"], "create"),
        (["exce", "x.img"], "exec"),
        (["exec", "--bnd", "/", "x.img", "true"], "--bind"),
        (["create", "--sise", "3", "x.img"], "--size"),
        (["expand", "--sice", "3", "x.img"], "--size"),
    ],
)
def test_wrong_words_end_with_1_and_a_near_miss(words: list[str], near: str) -> None:
    done = singularity(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert near in done.stderr


def test_every_option_has_its_help_and_the_reverse() -> None:
    assert {*manual.OPTIONS} == {*options.FLAGS, *options.VALUES}
    for verb in manual.VERBS:
        shown = manual.text(verb)
        assert all(f"--{name}" in shown for name in manual.options_of(verb))
        assert all(len(line) <= 90 for line in shown.splitlines())
