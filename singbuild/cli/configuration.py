"""``config``: what the configuration files set; and how the other commands get to know it."""

from __future__ import annotations

import os
from typing import Any

import click

from singbuild.cli.grammar import Group
from singbuild.cli.parameters import document, json_option
from singbuild.configuration import reading, settings
from singbuild.configuration.reading import BUILT_IN, Configuration
from singbuild.errors import UsageError
from singrun.errors import nearest


def defaults(configured: Configuration, command: click.Command) -> dict[str, Any]:
    """Return the defaults of ``build``'s options that files set, by the parameter's name."""
    names = {word: parameter.name for parameter in command.params for word in parameter.opts}
    return {
        str(names[setting.option]): configured.values[name].text
        for name, setting in settings.SETTINGS.items()
        if setting.option and name in configured.values
    }


def for_plugins(configured: Configuration) -> None:
    """Set the variables from which downloads and plugins, in children too, read settings."""
    offline = settings.is_yes(configured.value("offline").text)
    os.environ["SINGBUILD_OFFLINE"] = str(int(offline))
    if library := configured.value("library").text:
        os.environ["SINGBUILD_LIBRARY"] = library


@click.group("config", cls=Group)
def config_commands() -> None:
    """Show what is set by configuration files and variables."""


@config_commands.command(
    "show",
    examples=(
        "singbuild config show",
        "singbuild config show 'cache directory'",
        "singbuild config show --json",
    ),
)
@click.argument("name", required=False)
@json_option
def show(name: str | None, as_json: bool) -> int:
    """Print each setting, its value, and the file and line, or the variable, that it is from.

    NAME is one setting, of which only the value is printed. What each of them does is told by
    man singbuild.conf.
    """
    configured = reading.current()
    mirrors = [f"{settings.MIRROR}{each}" for each in configured.mirrors()]
    names = [*settings.SETTINGS, *mirrors]
    if name is not None and name not in names:
        guess = nearest(name, names)
        raise UsageError(
            f"there is no setting {name!r}", remedy=f"Did you mean {guess!r}?" if guess else ""
        )
    values = {each: configured.value(each) for each in names if name in (None, each)}
    if as_json:
        files = {"site": os.environ.get(reading.SITE_VARIABLE) or reading.SITE}
        files["user"] = str(reading.user_file())
        document(
            "config show",
            files=[{"of": of, "path": p, "read": p in configured.files} for of, p in files.items()],
            settings=[
                {
                    "name": each,
                    "value": value.text,
                    "source": value.source,
                    "path": value.path,
                    "line": value.line,
                }
                for each, value in values.items()
            ],
        )
    elif name is not None:
        print(values[name].text)
    else:
        width = max(len(value.text) for value in values.values())
        for each, value in values.items():
            source = "" if value.source == BUILT_IN else value.source
            print(f"{each:19} {value.text or '-':{width}}  {source}".rstrip())
        none = f"none; they would be {reading.SITE} and {reading.user_file()}"
        print(f"\nFiles: {', '.join(configured.files) or none}")
    return 0
