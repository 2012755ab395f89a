"""``cache``: what is kept of images that were pulled, and of builds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from singbuild import workspace
from singbuild.singularity.group import Group

_DAY = 24 * 60 * 60  # seconds
_MOST_DAYS = 1_000_000
# What 3.x calls a kind of its cache, by ours: each is a directory of the cache.
_THEIRS = {
    **dict.fromkeys(("library", "oci-tmp", "shub", "oras", "net"), ("pulled",)),
    "blob": ("docker", "docker-archive", "docker-daemon", "oci", "oci-archive"),
}


@dataclass(frozen=True)
class _CacheFile:
    """A file of the cache. size: bytes on the disk; time: of its last change."""

    path: Path
    size: int
    time: float


def _kinds(function: Any) -> Any:
    words = "Only this kind: pulled, stages, a backend's name, or as 3.x calls them; commas."
    return click.option("-T", "--type", "kinds", multiple=True, metavar="KIND", help=words)(
        function
    )


@click.group("cache", cls=Group)
def cache_commands() -> None:
    """List what is kept of pulled images and of builds, or remove it."""


@cache_commands.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Every file, with its size.")
@click.option("-a", "--all", "everything", is_flag=True, help="The same.")
@click.option("-s", "--summary", is_flag=True, expose_value=False, help="Accepted: it is printed.")
@_kinds
def list_cache(verbose: bool, everything: bool, kinds: tuple[str, ...]) -> int:
    """Say how much is kept, and where."""
    files = _files(kinds)
    if verbose or everything:
        for each in files:
            print(f"{_shown(each.size):>12}  {each.path}")
        print()
    print(f"There are {len(files)} file(s) in {workspace.cache_directory()}")
    print(f"Total space used: {_shown(sum(each.size for each in files))}")
    return 0


@cache_commands.command("clean")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "-D", "--days", type=click.IntRange(0, _MOST_DAYS), default=0, help="Only what is older."
)
@_kinds
def clean_cache(force: bool, dry_run: bool, days: int, kinds: tuple[str, ...]) -> int:
    """Remove what is kept, of pulled images too. Refused while a build uses the cache.

    A program that has an image open goes on with it.
    """
    before = time.time() - days * _DAY
    if not (force or dry_run):
        click.confirm("This will delete everything in your cache. Continue?", abort=True, err=True)
    with contextlib.nullcontext() if dry_run else workspace.whole_cache():
        for each in _files(kinds):
            if each.time > before:
                continue
            click.echo(f"{'Would remove' if dry_run else 'Removing'} {each.path}", err=True)
            if not dry_run:
                with contextlib.suppress(OSError):
                    each.path.unlink()
    return 0


def _files(words: Iterable[str]) -> list[_CacheFile]:
    """Return the files of the kinds that the words name, of all when there are none."""
    names = [name for word in words for name in word.split(",")]
    kinds = {kind for name in names for kind in _THEIRS.get(name, (name,))}
    is_wanted: Callable[[str], bool] = bool if not kinds or "all" in kinds else kinds.__contains__
    cache = workspace.cache_directory()
    rows = []
    for path in sorted(cache.glob("*/**/*")):
        # Hidden are locks and files that somebody is writing.
        if path.name.startswith(".") or path.is_symlink() or not path.is_file():
            continue
        if is_wanted(path.relative_to(cache).parts[0]):
            with contextlib.suppress(OSError):
                status = path.stat()
                rows.append(_CacheFile(path, status.st_blocks * 512, status.st_mtime))
    return rows


def _shown(size: int) -> str:
    return f"{size / (1 << 20):.2f} MiB"
