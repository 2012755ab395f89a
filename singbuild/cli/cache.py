"""``singbuild cache``: what is kept, how much room it takes, and making room."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild.cli.grammar import Group
from singbuild.cli.parameters import SIZE, document, json_option, quiet_option
from singbuild.console.sizes import binary
from singbuild.errors import UsageError

if TYPE_CHECKING:
    from singbuild.cache.contents import Item

TITLES = {
    "stage": "stages of builds",
    "download": "downloads",
    "image": "images of registries",
    "log": "logs of failed builds",
}
dry_run_option = click.option("--dry-run", is_flag=True, help="Remove nothing; say what would go.")


@click.group("cache", cls=Group)
def cache_commands() -> None:
    """Show what is kept between builds, or make room: stages, downloads, pulled images, logs."""


@cache_commands.command("list", examples=("singbuild cache list", "singbuild cache list --json"))
@json_option
def list_items(as_json: bool) -> int:
    """List all that is kept and why, the least recently used first in each kind.

    A stage's ID is the one that a build names when it takes it. Below stand the images that the
    site shares; they are not in the cache, and nothing here removes them.
    """
    from singbuild.cache import contents

    listing = [*contents.items(), *contents.shared()]
    if as_json:
        document("cache list", items=[_facts(item) for item in listing])
        return 0
    print(f"{'KIND':9} {'LAST USED':16} {'SIZE':>10}  {'ID OR NAME':14} WHY")
    for item in listing:
        used = datetime.fromtimestamp(item.used).strftime("%Y-%m-%d %H:%M")
        line = f"{item.kind:9} {used} {binary(item.size):>10}  {item.name:14} {item.of}"
        print(line.rstrip())
    return 0


@cache_commands.command("du", examples=("singbuild cache du",))
@json_option
def disk_usage(as_json: bool) -> int:
    """Print how much disk space all that is kept takes, and the limit for stages."""
    from singbuild import workspace
    from singbuild.cache import contents, store

    listing = contents.items()
    places = {"cache": workspace.cache_directory(), "logs": workspace.log_directory()}
    if as_json:
        document(
            "cache du",
            kinds={kind: _total(listing, kind) for kind in contents.KINDS},
            limit=store.limit(),
            **{name: str(path) for name, path in places.items()},
        )
        return 0
    for kind in contents.KINDS:
        count = sum(item.kind == kind for item in listing)
        limit = f" of {binary(store.limit())}" if kind == "stage" else ""
        print(f"{binary(_total(listing, kind)):>10}{limit}  {count} {TITLES[kind]}")
    print(f"{binary(sum(item.size for item in listing)):>10}  in all")
    print(f"in {places['cache']}, logs in {places['logs']}")
    return 0


@cache_commands.command(
    "prune",
    examples=("singbuild cache prune", "singbuild cache prune --size 5G --older 30"),
)
@click.option(
    "--size", type=SIZE, default=None, metavar="SIZE", help="Keep stages of at most SIZE."
)
@click.option(
    "--older",
    type=click.FloatRange(min=0),
    default=None,
    metavar="DAYS",
    help="Remove what was not used in DAYS: downloads and pulled images too.",
)
@dry_run_option
@json_option
def prune(size: int | None, older: float | None, dry_run: bool, as_json: bool) -> int:
    """Remove the least recently used stages, by default down to the limit.

    Logs of failed builds stay; `singbuild cache clean log` removes them.
    """
    from singbuild.cache import contents, store

    if older is not None and not math.isfinite(older):
        raise UsageError(f"--older {older} is not a number of days")
    listing = contents.items()
    doomed = contents.older(listing, older) if older is not None else []
    if size is not None or older is None:
        rest = [item for item in listing if item not in doomed]
        doomed += contents.surplus(rest, store.limit() if size is None else size)
    return _remove("cache prune", doomed, dry_run=dry_run, as_json=as_json)


@cache_commands.command(
    "clean",
    examples=(
        "singbuild cache clean",
        "singbuild cache clean download",
        "singbuild cache clean --all",
    ),
)
@click.argument("kinds", nargs=-1, type=click.Choice(["stage", "download", "image", "log"]))
@click.option("--all", "everything", is_flag=True, help="Remove the logs of failed builds too.")
@dry_run_option
@json_option
def clean(kinds: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> int:
    """Remove stages, downloads and pulled images, or those of the KINDS that are named.

    Refused while a build uses the cache.
    """
    from singbuild.cache import contents

    choice = kinds or contents.KINDS[: None if everything else -1]
    doomed = [item for item in contents.items() if item.kind in choice]
    return _remove("cache clean", doomed, dry_run=dry_run, as_json=as_json)


@cache_commands.command(
    "fill",
    examples=(
        "singbuild cache fill /srv/images docker://python:3-slim",
        "singbuild cache fill /srv/images samtools=oras://registry.example/lab/samtools:1.20",
    ),
)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="[NAME=]SOURCE…")
@quiet_option
def fill(directory: Path, images: tuple[str, ...], quiet: bool) -> int:
    """Bring images into DIRECTORY, from which a site starts them, or up to date there.

    `singrun exec SOURCE` takes them from there, and `singrun exec NAME`, where `image library` in
    /etc/singrun.conf or SINGRUN_LIBRARY names the directory. Only what has changed is fetched:
    let a cron job do it.
    """
    from singbuild.images import library

    return library.fill(directory, images, quiet=quiet)


def _remove(command: str, doomed: list[Item], *, dry_run: bool, as_json: bool) -> int:
    """Remove what is to go, and say how much it was."""
    from singbuild import workspace
    from singbuild.cache import contents, store

    # A build has its stage open and can do without the name; a download it opens by name, and late.
    if not dry_run and all(item.kind in ("stage", "log") for item in doomed):
        workspace.sweep_parts(store.directory(), ".*.part")
        for item in doomed:
            contents.remove(item)
    elif not dry_run:
        with workspace.whole_cache():
            for item in doomed:
                contents.remove(item)
    size = sum(item.size for item in doomed)
    if as_json:
        facts = [_facts(item) for item in doomed]
        document(command, removed=[] if dry_run else facts, would_remove=facts if dry_run else [])
    else:
        word = "would remove" if dry_run else "removed"
        print(f"{word} {len(doomed)} item{'s' * (len(doomed) != 1)}, {binary(size)}")
    return 0


def _facts(item: Item) -> dict[str, object]:
    return vars(item) | {"path": str(item.path)}


def _total(listing: list[Item], kind: str) -> int:
    return sum(item.size for item in listing if item.kind == kind)
