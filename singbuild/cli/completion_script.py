"""Completion for bash, zsh and fish, written from what the commands define.

Each script is a table, a row for each word that may be typed (see singrun/verbs/words.py), and
the lines of one shell that look words up in it. Knows nothing of what a command does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from singbuild.cli.parameters import SHELLS
from singrun.verbs import words
from singrun.verbs.words import IMAGE

BUILDER = "singbuild"
RECIPE = "file .def .j2 Dockerfile Singularity"
# What a value or an argument is, by the parameter's name, or else by its type.
_BY_NAME = {
    **dict.fromkeys(("image", "one", "other", "target"), IMAGE),
    "recipe": RECIPE,
    "source": IMAGE,
    "values": "file .yaml .yml",
    "junit": "file .xml",
    "form": "output singbuild formats",
    "file": "file",
    "directory": "directory",
    "arch": "words x86_64 aarch64 armv7l i686 ppc64le riscv64 s390x",
    "secret_words": "words id=",
}
_BACKENDS = "output singbuild backends"
_ENGINES = Path(__file__).with_name("shells")


def script(shell: str, tables: Mapping[str, Iterable[words.Row]]) -> str:
    """Return the completion of programs for a shell. tables: the rows of each program, by name."""
    unique = dict.fromkeys(
        "|".join(_plain(cell) for cell in row) for table in tables.values() for row in table
    )
    text = (_ENGINES / SHELLS[shell]).read_text()
    rows = "\n".join(unique)
    if shell == "fish":
        # Unlike sh, fish knows \ between single quotes: https://github.com/vim/vim/pull/8810.
        rows = rows.replace("\\", "\\\\").replace("'", "\\'")
    # Functions of one program's script shall not be those of another's.
    text = text.replace("_singbuild", f"_{next(iter(tables))}")
    return text.replace("@PROGRAMS@", " ".join(tables)).replace("@ROWS@", rows)


def _plain(cell: str) -> str:
    return " ".join(cell.replace("|", "/").split())


def of_builder(commands: click.Group) -> Iterator[words.Row]:
    """Yield the rows of singbuild, whose first word may be the recipe of a build."""
    names = " ".join(["words", *commands.commands])
    for place, word, takes, what in of_group(commands, BUILDER):
        yield place, word, names if (place, word) == (f"{BUILDER} help", "*") else takes, what
    yield from _of_command(commands.commands["build"], BUILDER)


def of_group(group: click.Group, place: str) -> Iterator[words.Row]:
    """Yield the rows of a group of commands and of all below it. place: its name."""
    for name, each in group.commands.items():
        yield place, name, "command", each.get_short_help_str(limit=100)
        if isinstance(each, click.Group):
            yield from of_group(each, f"{place} {name}")
        else:
            yield from _of_command(each, f"{place} {name}")
    yield from _of_parameters(group, place)


def _of_command(command: click.Command, place: str) -> Iterator[words.Row]:
    yield from _of_parameters(command, place)
    number = 0
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            number += 1
            word = "*" if parameter.nargs == -1 else str(number)
            yield place, word, _takes(parameter, command), ""


def _of_parameters(command: click.Command, place: str) -> Iterator[words.Row]:
    context = click.Context(command, info_name=place, **command.context_settings)
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            takes = "-" if parameter.is_flag or parameter.count else _takes(parameter, command)
            for word in parameter.opts:
                yield place, word, takes, (parameter.help or "").partition(". ")[0]


def _takes(parameter: click.Parameter, command: click.Command) -> str:
    """Return what a parameter's value is, as the rows have it."""
    if isinstance(parameter.type, click.Choice):
        return " ".join(["words", *map(str, parameter.type.choices)])
    name = parameter.name or ""
    if command.name == "backends":
        return _BACKENDS
    if command.name == "config" or (command.name == "show" and name == "name"):
        return "output singbuild config show"
    if name in _BY_NAME:
        return _BY_NAME[name]
    return "file" if isinstance(parameter.type, click.Path) or name == "words" else ""
