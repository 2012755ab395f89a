"""``singbuild cache``: what is kept, how much room it takes, and making room."""

from __future__ import annotations

from datetime import datetime

import click

from singbuild.console.sizes import parse_size


@click.group("cache")
def cache_commands() -> None:
    """Look at the cache of build stages, or make room in it."""


@cache_commands.command("list")
def list_entries() -> int:
    """List the cached stages, the least recently used first. Each is an ordinary image."""
    from singbuild.cache import store

    for entry in store.entries():
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        print(f"{used}  {entry.size >> 20:6} MiB  {entry.name:10} {entry.recipe}  {entry.path}")
    return 0


@cache_commands.command("du")
def disk_usage() -> int:
    """Print how much disk space the cached stages take, and the limit."""
    from singbuild.cache import store

    kept = store.entries()
    taken = sum(entry.size for entry in kept) >> 20
    print(f"{len(kept)} entries, {taken} MiB of {store.limit() >> 20} MiB, in {store.directory()}")
    return 0


@cache_commands.command("prune")
@click.option("--size", default=None, metavar="SIZE", help="Keep at most this much, such as 5G.")
def prune(size: str | None) -> int:
    """Remove the least recently used stages, by default down to the limit."""
    from singbuild.cache import store

    dropped = store.prune(store.limit() if size is None else parse_size(size))
    print(f"dropped {len(dropped)} entries, {sum(entry.size for entry in dropped) >> 20} MiB")
    return 0
