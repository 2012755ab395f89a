"""``inspect``, ``apps``, ``run-help``: what an image says of itself, as 3.x prints it.

The JSON is {"data": {"attributes": {…}}, "type": "container"}; what was not asked for, and what
the image does not have, is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from singbuild.console.events import printable

_SCHEMA = "org.label-schema"
# As Apptainer prints them for people, and in its JSON.
_ORDER = ("deffile", "runscript", "startscript", "test", "helpfile", "environment", "labels")
_KEYS = (
    *("apps", "environment", "labels", "runscript", "test", "helpfile"),
    *("deffile", "startscript"),
)


@click.command("inspect", epilog="\b\nExample:\n  singularity inspect --json debian.sif\n")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON.")
@click.option("-l", "--labels", is_flag=True, help="The labels; also when nothing is asked for.")
@click.option("-d", "--deffile", is_flag=True, help="The recipe.")
@click.option("-r", "--runscript", is_flag=True, help="The runscript.")
@click.option("-s", "--startscript", is_flag=True, help="What an instance starts.")
@click.option("-t", "--test", is_flag=True, help="The test.")
@click.option("-e", "--environment", is_flag=True, help="The environment's scripts.")
@click.option("-H", "--helpfile", is_flag=True, help="The help text.")
@click.option("--app", default="", metavar="NAME", help="Of this application in it.")
@click.option("--list-apps", is_flag=True, help="The names of its applications.")
@click.option("--all", "everything", is_flag=True, help="All of it, as JSON.")
def inspect(
    image: Path, as_json: bool, everything: bool, app: str, list_apps: bool, **flags: bool
) -> int:
    """Say what IMAGE says of itself. It is not executed, and needs no root."""
    from singbuild import about
    from singbuild.formats.loading import opened
    from singbuild.packages.tree import ImageTree

    names = [name for name in _ORDER if flags[name] or everything]
    with opened(image) as files:
        tree = ImageTree(files)
        names = names or ([] if list_apps else ["labels"])
        values = about.attributes(tree, names, app)
        if "labels" in names and not app and tree.chunks(about.HOME + b"/labels.json") is not None:
            # Every image of Apptainer has these; programs take one without labels for no image.
            derived = {
                f"{_SCHEMA}.schema-version": "1.0",
                f"{_SCHEMA}.build-arch": about.machine(files),
            }
            values["labels"] = derived | values.get("labels", {})
        values = _stripped(values)
        listed = about.apps(tree) if list_apps or (everything and not app) else []
        apps = {name: _stripped(about.attributes(tree, about.ALL, name)) for name in listed}
    if as_json or everything:
        attributes = {"apps": {app: values}} if app else ({"apps": apps} if apps else {}) | values
        keys = {key: attributes[key] for key in _KEYS if key in attributes}
        document = {"data": {"attributes": keys}, "type": "container"}
        text = json.dumps(document, indent="\t", ensure_ascii=False)
        print("".join(f"\\u{ord(c):04x}" if c in "<>&" else c for c in text))  # as Go writes them
        return 0
    for name in listed:
        print(_for_output(name))
    for name, value in values.items():
        print(_for_output(_as_text(name, value)), end="")
    return 0


@click.command("apps")
@click.argument("image", type=click.Path(path_type=Path))
def apps(image: Path) -> int:
    """List the applications in IMAGE, one a line."""
    from singbuild import about
    from singbuild.formats.loading import opened
    from singbuild.packages.tree import ImageTree

    with opened(image) as files:
        for name in about.apps(ImageTree(files)):
            print(_for_output(name))
    return 0


@click.command("run-help")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--app", metavar="NAME", help="The application's.")
def run_help(image: Path, app: str | None) -> int:
    """Print IMAGE's help text."""
    from singbuild import about
    from singbuild.formats.loading import opened
    from singbuild.packages.tree import ImageTree

    path = about.HOME + b"/runscript.help"
    if app:
        path = f"scif/apps/{app}/scif/runscript.help".encode()
    with opened(image) as files:
        text = about.text(ImageTree(files), path)
    print(_for_output(text.rstrip("\n")) or "No help sections were defined for this image")
    return 0


def _for_output(text: str) -> str:
    """Return text as it is; for a terminal without what moves its cursor, as an image's may."""
    return printable(text) if sys.stdout.isatty() else text


def _stripped(values: dict[str, Any]) -> dict[str, Any]:
    """Return attributes without the line ends after texts, labels by their names."""
    return {
        name: {key: each.rstrip("\n") for key, each in sorted(value.items())}
        if isinstance(value, Mapping)
        else value.rstrip("\n")
        for name, value in values.items()
    }


def _as_text(name: str, value: Any) -> str:
    """Return an attribute as lines for people."""
    if name == "labels":
        return "".join(f"{key}: {each}\n" for key, each in sorted(value.items()))
    if isinstance(value, Mapping):
        return "".join(f"=== {path} ===\n{text}\n\n" for path, text in value.items())
    return f"{value}\n"
