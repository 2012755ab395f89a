"""Answers to words that no command knows: typing errors, and words of other tools."""

from __future__ import annotations

import re
from pathlib import Path

import click

from singbuild.errors import UsageError
from singrun.errors import nearest

# A command of another tool, or of singrun: what to type here.
COMMANDS = {
    **{
        verb: f"singrun {verb} IMAGE"
        for verb in ("exec", "run", "shell", "test", "env", "mount", "start", "stop", "warm")
    },
    "instances": "singrun instances",
    "ps": "singrun instances",
    "version": "singbuild --version",
    "clean": "singbuild cache clean",
    "list": "singbuild cache list",
    "images": "singbuild cache list",
    "check": "singbuild verify IMAGE",
    "log": "singbuild cache list",
    "logs": "singbuild cache list",
    "update": "singbuild RECIPE IMAGE --force",
    "search": "singbuild backends",
}
# An option of another tool: what is said here instead.
OPTIONS = {
    "--size": "Room for later writing is --free SIZE; an image is as large as its content.",
    "--dry-run": "What a build would do is told by: singbuild plan RECIPE",
    "-n": "What a build would do is told by: singbuild plan RECIPE",
    "-o": "The image is the second word: singbuild RECIPE IMAGE",
    "--output": "The image is the second word: singbuild RECIPE IMAGE",
    "-t": "The image is the second word: singbuild RECIPE IMAGE",
    "--tag": "The image is the second word: singbuild RECIPE IMAGE",
    "-f": "The recipe is the first word: singbuild RECIPE IMAGE",
    "--file": "The recipe is the first word: singbuild RECIPE IMAGE",
    "-v": "All output is shown as it is; --quiet and --json are the other forms.",
    "--verbose": "All output is shown as it is; --quiet and --json are the other forms.",
    "-d": "All output is shown as it is, and kept in the log when a build fails.",
    "--debug": "All output is shown as it is, and kept in the log when a build fails.",
    "--fakeroot": "Builds need no root here: leave it out. See: singbuild doctor",
    "--remote": "Builds are made on this host: leave it out.",
    "--no-test": "It is spelled --notest.",
    "--notests": "It is spelled --notest.",
    "--pull": "Inputs are resolved anew by each build; --offline takes those of earlier ones.",
    "-y": "Nothing is asked; --force replaces an existing image.",
    "--yes": "Nothing is asked; --force replaces an existing image.",
    "--arg": "It is spelled --build-arg NAME=VALUE.",
    "-V": "It is spelled --version.",
}


def is_command_like(word: str) -> bool:
    """Whether a first word can only have been meant as a command: no option, no path, no file."""
    return not (word.startswith("-") or "/" in word or "." in word or Path(word).exists())


def no_command(word: str, names: list[str], path: str = "singbuild") -> UsageError:
    """Return what to say of a word that is no command. path: the command it was given to."""
    at_top = path == "singbuild"
    near = nearest(word, names + [*COMMANDS] * at_top)
    meant = f"{path} {near}" if near in names else COMMANDS.get(near, "")
    recipe = ", and no recipe of that name" * at_top
    return UsageError(
        f"there is no command {word!r}{recipe}",
        remedy=f"Did you mean: {meant}?" if meant else f"See: {path} --help",
    )


def explained(error: click.UsageError) -> UsageError:
    """Return what click found wrong with a command line, and how the line should be."""
    context = error.ctx
    if context is None:
        return UsageError(error.format_message())
    usage = context.command.get_usage(context)
    if isinstance(error, click.NoSuchOption):
        return _no_option(error.option_name, context)
    if isinstance(error, click.MissingParameter) and error.param:
        name = error.param.make_metavar(context)
        return UsageError(f"{name} is missing", remedy=usage)
    extra = re.search(r"unexpected extra arguments? \((.*)\)", error.message)
    if extra:
        return UsageError(f"too many words: {extra[1]}", remedy=usage)
    return UsageError(error.format_message().rstrip("."), remedy=f"See: {_help(context)}")


def _no_option(name: str, context: click.Context) -> UsageError:
    names = [word for parameter in context.command.get_params(context) for word in parameter.opts]
    why = OPTIONS.get(name, "") if context.command.name == "build" else ""
    near = nearest(name.lstrip("-"), [word[2:] for word in names if word.startswith("--")])
    if near and not why and name.startswith("--"):
        why = f"Did you mean --{near}?"
    what = f"{context.command_path} has no option {name}"
    return UsageError(what, why=why, remedy=f"See: {_help(context)}")


def _help(context: click.Context) -> str:
    return f"{context.command_path} --help"
