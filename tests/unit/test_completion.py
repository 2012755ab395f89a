"""Completion of all commands: the table has every word, and the shells offer what fits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from singbuild.cli.main import commands
from singbuild.cli.parameters import SHELLS
from singrun.options import FLAGS, VALUES
from singrun.verbs import manual, words
from tests.bench.terminal import Terminal
from tests.unit.test_first_words import every_command

# Of each argument, a file and a line's words, the answers in a line.
BASH = """\
for each; do (
    set -- $each
    . "./$1"; shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    eval "$(complete -p "$1" | sed 's/.*-F \\([a-z_]*\\) .*/\\1/')"
    echo "${COMPREPLY[*]}"
) </dev/null; done
"""
# Of each argument, a line, the answers and a form feed. One fish has all files, as a user's has.
FISH = """\
for file in .*.fish; source $file; end
for line in $argv; complete -C $line; printf '\\f'; end
"""
LINES = [
    ("singbuild ca", "cache"),
    ("singbuild cache p", "prune"),
    ("singbuild cache clean st", "stage"),
    ("singbuild build --privilege su", "subuid"),
    ("singbuild build --privilege=su", "--privilege=subuid"),
    ("singbuild --privilege su", "subuid"),
    ("singbuild build too", "tool.def"),
    ("singbuild too", "tool.def"),
    ("singbuild build tool.def -F oth", "other.sif"),
    ("singbuild build --values v", "values.yaml"),
    ("singbuild backends debo", "debootstrap"),
    ("singbuild build --format sq", "squashfs"),
    ("singbuild create --si", "--size"),
    ("singbuild inspect oth", "other.sif"),
    ("singbuild help bootst", "bootstrap"),
    ("singbuild completion z", "zsh"),
    ("singrun ex", "exec"),
    ("singrun --debug do", "doctor"),
    ("singrun exec --no-mo", "--no-mount"),
    ("singrun exec --no-mount hos", "hostfs"),
    ("singrun exec --mount-with=sq", "--mount-with=squashfuse"),
    ("singrun exec oth", "other.sif"),
    ("singrun doctor --mp", "--mpi"),
    ("singrun instance sto", "stop"),
    ("singularity boots", "bootstrap"),
    ("singularity create --fo", "--force"),
    ("apptainer exec --no-pr", "--no-privs"),
]
NOTHING = ("singrun exec other.sif --wri", "singularity xyzzy", "singbuild cache list --siz")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the scripts, and files of several endings."""
    place = tmp_path_factory.mktemp("completion")
    for program in ("singbuild", "singularity", "apptainer"):
        for shell in SHELLS:
            (place / f".{program}.{shell}").write_text(script(program, shell))
    for name in ("tool.def", "tool.txt", "other.sif", "other.txt", "values.yaml", "values.txt"):
        (place / name).write_text("")
    return place


def script(program: str, shell: str) -> str:
    words = [program, "completion", shell]
    return subprocess.check_output(words, text=True, env=environment())


def source(line: str, shell: str) -> str:
    """The file that has the completion of a line's command."""
    program = line.partition(" ")[0].replace("singrun", "singbuild")
    return f".{program}.{shell}"


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def in_bash(lines: list[str], desk: Path) -> list[list[str]]:
    typed = [f"{source(line, 'bash')} {line}" for line in lines]
    words = ["bash", "-c", BASH, "bash", *typed]
    output = subprocess.check_output(words, text=True, cwd=desk, env=environment())
    return [row.split() for row in output.splitlines()]


def in_fish(lines: list[str], desk: Path) -> list[list[str]]:
    words = ["fish", "-c", FISH, *lines]
    output = subprocess.check_output(words, text=True, cwd=desk, env=environment())
    answers = output.split("\f")[:-1]
    return [[row.split("\t")[0] for row in each.splitlines()] for each in answers]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_offers_what_fits_and_nothing_else(shell: str, desk: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    offered = {"bash": in_bash, "fish": in_fish}[shell]
    expected = {line: [answer] for line, answer in LINES} | {line: [] for line in NOTHING}
    answers = offered([*expected], desk)
    assert dict(zip(expected, answers, strict=True)) == expected


@pytest.fixture
def zsh(desk: Path) -> Iterator[Callable[[str, str], str]]:
    """Complete what is typed in a zsh on a terminal."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")

    def become() -> None:
        os.chdir(desk)
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment() | {"TERM": "dumb"})

    terminal = Terminal(become)
    terminal.type(
        "autoload -U compinit; compinit -D -u; for each in .*.zsh; do source ./$each; done; "
        "bindkey -e; bindkey '^I' complete-word; unsetopt beep; PS1='rea''dy> '\n"
    )

    def type_tab(line: str, answer: str) -> str:
        terminal.expect("ready> ")
        terminal.type(f"{line}\t")
        result = terminal.expect(f"{line[: line.rindex(' ') + 1]}{answer}[ /]")
        terminal.type("\x15\n")
        return result

    yield type_tab
    terminal.type("\x15exit\n")
    os.waitpid(terminal.child, 0)
    os.close(terminal.fd)


def test_zsh_completes_on_a_terminal(zsh: Callable[[str, str], str]) -> None:
    for line, answer in LINES:
        assert zsh(line, answer)


def test_the_table_has_every_command_and_option() -> None:
    lines = script("singbuild", "bash").splitlines()
    rows = {(place, word) for place, word, *_ in (row.split("|") for row in lines if "|" in row)}
    for path in every_command(commands):
        *above, name = path
        assert (" ".join(["singbuild", *above]), name) in rows
        result: click.Command = commands
        for word in path:
            assert isinstance(result, click.Group)
            result = result.commands[word]
        for parameter in result.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert (" ".join(["singbuild", *path]), option) in rows
    for verb in manual.VERBS:
        assert ("singrun", verb) in rows
    for name in {*FLAGS, *VALUES}:
        assert any(word == f"--{name}" for _, word in rows), name


def test_every_choice_is_offered() -> None:
    takes = {(row[0], row[1]): row[2] for row in words.rows()}
    assert takes["singrun exec", "--mount-with"] == "words loop fuse2fs squashfuse unpack"
    assert takes["singrun exec", "--contain"] == "-"
    for place in ("singrun exec", "singrun run", "singrun mount"):
        assert takes[place, "1"] == words.IMAGE


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_of_one_program_does_not_disturb_anothers(shell: str) -> None:
    words = ["singbuild", "completion", shell]
    one, other = (
        subprocess.check_output([*words, name], text=True, env=environment())
        for name in ("singbuild", "singrun")
    )
    assert "_singrun" not in one
    assert "_singbuild" not in other
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=one, text=True, check=True)
