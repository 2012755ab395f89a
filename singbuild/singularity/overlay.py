"""``overlay create``: an ext3 image to be laid over others with --overlay."""

from __future__ import annotations

from pathlib import Path

import click

from singbuild.errors import SourceError
from singbuild.singularity import options
from singbuild.singularity.group import Group

_MEBIBYTE = 1 << 20


_OWN_FILE = "An overlay stays a file of its own, which each launch names: --overlay FILE."


@click.group("overlay", cls=Group, absent=dict.fromkeys(("seal", "sync"), _OWN_FILE))
def overlay_commands() -> None:
    """Make an image that --overlay lays over others, to be written."""


@overlay_commands.command("create", epilog="\b\nExample:\n  overlay create --size 1024 mine.img\n")
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "-s", "--size", type=click.IntRange(min=64), default=64, show_default=True, help="In MiB."
)
@click.option(
    "--create-dir", "directories", multiple=True, metavar="DIR", help="A directory in it."
)
@click.option("-S", "--sparse", is_flag=True, expose_value=False, help="Accepted: it always is.")
@options.idle("fakeroot/f")
def create(image: Path, size: int, directories: tuple[str, ...]) -> int:
    """Make IMAGE, an empty ext3. What is written to it, and DIR, belongs to who writes."""
    from singbuild.images import change

    if image.exists():
        raise SourceError(f"{image} exists", why=_OWN_FILE, remedy="Name a new file.")
    inner = [f"upper/{each.strip('/')}" for each in directories]
    change.create(image, size * _MEBIBYTE, force=False, directories=("upper", "work", *inner))
    return 0
