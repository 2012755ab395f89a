"""Plugins as their distributions announce them: found by entry points, imported one by one.

Listing imports nobody's code; a broken plugin hurts only those who ask for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import FrameType
from typing import cast

from singbuild import variables
from singbuild.errors import BackendError
from singrun.errors import nearest

PATIENCE = 60.0  # seconds for a plugin's import; docker-py takes 0.2


@dataclass(frozen=True)
class Installed:
    """A plugin as its distribution's metadata announces it; nothing is imported."""

    name: str
    distribution: str
    version: str
    entry: EntryPoint


def installed(group: str) -> list[Installed]:
    """Return every plugin of a group that a distribution announces, sorted by name."""
    plugins = [
        Installed(entry.name, *_identity(entry.dist), entry)
        for entry in _all_groups(tuple(sys.path)).select(group=group)
        if entry.dist is not None
    ]
    # One distribution can be seen twice, installed and on the path of a checkout.
    return sorted({(each.name, each.distribution): each for each in plugins}.values(), key=_by_name)


@cache  # some 3 ms: a file of each distribution is read
def _all_groups(_path: tuple[str, ...]) -> EntryPoints:
    return cast("EntryPoints", entry_points())  # of Python 3.11: another type with the same select


@cache  # METADATA is parsed each time that one of its fields is asked for
def _identity(distribution: Distribution) -> tuple[str, str]:
    about = distribution.metadata
    return about["Name"] or "?", about["Version"] or "?"


def _by_name(each: Installed) -> tuple[str, str]:
    return each.name, each.distribution


def only(kind: str, name: str, plugins: Sequence[Installed], remedy: str) -> Installed:
    """Return the plugin of this name. Raises BackendError: none, or two that claim it."""
    claims: dict[str, list[Installed]] = defaultdict(list)
    for each in plugins:
        claims[each.name].append(each)
    matches = claims.get(name, [])
    if len(matches) > 1:
        raise BackendError(claimed(kind, matches), remedy="Uninstall one of them.")
    if not matches:
        near = nearest(name, list(claims))
        raise BackendError(
            f"no {kind} named {name!r} is installed"
            + (f"; did you mean {near!r}?" if near else ""),
            why=f"Installed: {', '.join(claims) or 'none'}.",
            # In a checkout the metadata may be older than the code.
            remedy=remedy if claims else "Install singbuild again: pip install -e .",
        )
    return matches[0]


def claimed(kind: str, claims: Sequence[Installed]) -> str:
    """Name the distributions that claim one name."""
    owners = " and ".join(f"{each.distribution} {each.version}" for each in claims)
    return f"the {kind} name {claims[0].name!r} is claimed by {owners}"


def imported(plugin: Installed, kind: str) -> object:
    """Import a plugin; one that takes longer than PATIENCE is given up with a BackendError.

    Raises UsageError for a SINGBUILD_PLUGIN_TIMEOUT that is no number, and what the plugin raises.
    """
    seconds = variables.seconds("SINGBUILD_PLUGIN_TIMEOUT", PATIENCE)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise BackendError(
            f"{kind} {plugin.name!r} is still being imported after {seconds:g} s",
            remedy=f"It comes from {plugin.distribution} {plugin.version}; report it there. "
            "SINGBUILD_PLUGIN_TIMEOUT raises this limit.",
        )

    if threading.current_thread() is not threading.main_thread():
        return plugin.entry.load()  # only the main thread gets signals
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return plugin.entry.load()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def module_spec(name: str) -> ModuleSpec | None:
    """Return where a module is, None for nowhere; no package that it lies in is imported."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    for part in rest:
        if spec is None:
            return None
        name = f"{spec.name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def code_digest(*modules: str) -> str:
    """Return the SHA-256 of the source of modules, as installed, and of the packages around them.

    A plugin that is being worked on keeps its version; what it made before is not to
    be taken from the cache.
    """
    total = hashlib.sha256()
    for name in modules:
        spec = module_spec(name.partition(".")[0])  # a module works by what lies beside it
        if spec and spec.origin:
            origin = Path(spec.origin)
            package = spec.submodule_search_locations
            for file in sorted(origin.parent.rglob("*.py")) if package else [origin]:
                total.update(file.read_bytes())
    return total.hexdigest()
