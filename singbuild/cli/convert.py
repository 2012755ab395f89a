"""``convert`` and ``formats``: kinds of image files, one into another."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from singbuild import command
from singbuild.cli.grammar import Command
from singbuild.cli.parameters import (
    FILE,
    document,
    force_option,
    json_option,
    quiet_option,
    warn_of_ending,
)
from singbuild.errors import SingbuildError

format_option = click.option(
    "--format",
    "form",
    default="",
    metavar="NAME",
    help="The kind of image, as `singbuild formats` lists them; by default what the target's name "
    "ends with (.sif, .sqfs …, a slash for a directory), else ext3.",
)


@click.command(
    "convert",
    cls=Command,
    examples=(
        "singbuild convert debian.img debian.sif",
        "singbuild convert downloaded.sif mine.img",
        "singbuild convert debian.img debian/",
    ),
)
@click.argument("source", type=FILE)
@click.argument("target", type=click.Path())
@format_option
@force_option
@quiet_option
def convert(source: Path, target: str, form: str, force: bool, quiet: bool) -> int:
    """Make an image of another kind of SOURCE: ext3, squashfs, SIF or a directory.

    It needs neither root nor a mount. Owners, attributes, links and holes are kept; into a
    directory an ordinary user gets files of his own. What a kind cannot hold is reported.
    """
    from singbuild.console import display
    from singbuild.images import conversion

    console = display.Console(sys.stdout, quiet=quiet)
    try:
        path = Path(target)
        form = form or "directory" * target.endswith("/")
        if not form:
            warn_of_ending(path, console)
        conversion.convert(source, path, console, word=form, force=force)
    except SingbuildError as error:
        console.error(error, None)
        return error.status
    return 0


@click.command("formats", cls=Command, examples=("singbuild formats",))
@json_option
def show_formats(as_json: bool) -> int:
    """List the kinds of images that are read and written, with their endings and programs."""
    from singbuild import entry_points
    from singbuild.formats import loading

    kinds = [loading.load(each) for each in entry_points.installed(loading.GROUP)]
    if as_json:
        rows = [
            {
                "name": kind.name,
                "help": kind.format.help,
                "endings": [*kind.format.endings],
                "written": kind.can_write,
                "programs": [vars(program) for program in kind.format.programs],
                "distribution": kind.plugin.installed.distribution,
                "version": kind.plugin.installed.version,
            }
            for kind in kinds
        ]
        document("formats", formats=rows)
        return 0
    for kind in kinds:
        print(f"{kind.name:12} {kind.format.help}")
        if kind.format.endings:
            print(f"{'':12} {' '.join(kind.format.endings)}")
        for program in kind.format.programs:
            there = command.which(program.name) or f"missing: apt-get install {program.package}"
            print(f"{'':12} written by {program.name}: {there}")
        plugin = kind.plugin.installed
        if plugin.distribution != "singbuild":
            print(f"{'':12} from {plugin.distribution} {plugin.version}")
    return 0


COMMANDS = (convert, show_formats)
