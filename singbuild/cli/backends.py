"""``backends`` and ``new-backend``: what is installed, and the beginning of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild import command
from singbuild.cli.grammar import Command
from singbuild.cli.parameters import FILE, document, json_option

if TYPE_CHECKING:
    from singbuild.entry_points import Installed


@click.command(
    "backends", cls=Command, examples=("singbuild backends", "singbuild backends debootstrap")
)
@click.argument("name", required=False)
@json_option
def show_backends(name: str | None, as_json: bool) -> int:
    """List the backends that are installed, or print one's keywords and host programs."""
    from singbuild import entry_points
    from singbuild.backends import loading

    if name is None:
        plugins = entry_points.installed(loading.GROUP)
        if as_json:
            document("backends", backends=[_facts(each) for each in plugins])
            return 0
        for each in plugins:
            print(f"{each.name:16} {loading.description(each)}")
            if each.distribution != "singbuild":
                print(f"{'':16} from {each.distribution} {each.version}")
        print("\nMore of one: singbuild backends NAME")
        return 0
    backend = loading.load(name)
    needs = backend.needs
    programs = {program: command.which(program.name) for program in needs.programs}
    if as_json:
        document(
            "backends",
            **_facts(backend.installed),
            keywords=[vars(keyword) for keyword in needs.keywords],
            programs=[
                {"name": each.name, "package": each.package, "path": str(path) if path else None}
                for each, path in programs.items()
            ],
        )
        return 0
    installed = backend.installed
    print(f"{name}: {loading.description(installed)}")
    print(f"From {installed.distribution} {installed.version}.\n\nKeywords:")
    for keyword in needs.keywords:
        notes = " (required)" if keyword.required else ""
        notes += f" (default: {keyword.default})" if keyword.default else ""
        print(f"  {keyword.name:14} {keyword.help.rstrip('.')}{notes}")
    print("\nHost programs:" + " none" * (not programs))
    for program, path in programs.items():
        print(f"  {program.name:14} {path or f'missing: apt-get install {program.package}'}")
    return 0


def _facts(installed: Installed) -> dict[str, str]:
    from singbuild.backends import loading

    return {
        "name": installed.name,
        "description": loading.description(installed),
        "distribution": installed.distribution,
        "version": installed.version,
    }


@click.command("new-backend", cls=Command, examples=("singbuild new-backend my-tarball",))
@click.argument("name")
@click.argument("directory", required=False, type=FILE)
def new_backend(name: str, directory: Path | None) -> int:
    """Write a distribution for a backend NAME: it installs, works, and passes its tests.

    DIRECTORY is where it is written; by default a new one beside you.
    """
    from singbuild.backends import scaffold

    where = scaffold.new_backend(name, directory)
    python = f"{sys.prefix}/bin/python"  # a backend is found where singbuild is installed
    print(
        f"{where}\nNext: {python} -m pip install -e '{where}[test]' && {python} -m pytest {where}"
    )
    return 0


COMMANDS = (show_backends, new_backend)
