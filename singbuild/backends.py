"""Finds backends: lists them from metadata, loads the one that a recipe names.

A backend is an entry point of the group ``singbuild.bootstrap``. Listing
imports nobody's code; a broken plugin hurts only those who ask for it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from singbuild import hookspecs
from singbuild.contract import Needs
from singbuild.errors import BackendError, SingbuildError, nearest

GROUP = "singbuild.bootstrap"


@dataclass(frozen=True)
class Installed:
    """A backend as its distribution's metadata announces it; nothing is imported."""

    name: str
    distribution: str
    version: str
    entry: EntryPoint


@dataclass(frozen=True)
class Backend:
    """A loaded backend. hooks: its pluggy hooks; needs: what ``singbuild_needs`` said."""

    installed: Installed
    needs: Needs
    hooks: Any

    @property
    def name(self) -> str:
        """The recipe's ``Bootstrap:`` word."""
        return self.installed.name

    def call(self, hook: str, **arguments: object) -> Any:
        """Call a hook; what is not one of our errors becomes a BackendError naming the plugin."""
        try:
            return getattr(self.hooks, hook)(**arguments)
        except (SingbuildError, OSError):
            raise
        except Exception as error:
            raise BackendError(
                f"backend {self.name!r} failed in {hook}: {type(error).__name__}: {error}",
                remedy=f"This is a bug in {self.installed.distribution} "
                f"{self.installed.version}, not in your recipe; report it there.",
            ) from error


def installed() -> list[Installed]:
    """Return every backend that an installed distribution announces, sorted by name."""
    found = [
        Installed(entry.name, entry.dist.name, entry.dist.version, entry)
        for entry in entry_points(group=GROUP)
        if entry.dist is not None
    ]
    # One distribution can be seen twice, installed and on the path of a checkout.
    return sorted({(each.name, each.distribution): each for each in found}.values(), key=_by_name)


def _by_name(each: Installed) -> tuple[str, str]:
    return each.name, each.distribution


def find(name: str) -> Installed:
    """Return the backend of this name. Raises BackendError: none, or two that claim it."""
    claims: dict[str, list[Installed]] = defaultdict(list)
    for each in installed():
        claims[each.name].append(each)
    wanted = claims.get(name, [])
    if len(wanted) > 1:
        owners = " and ".join(f"{each.distribution} {each.version}" for each in wanted)
        raise BackendError(
            f"the backend name {name!r} is claimed by {owners}",
            remedy="Uninstall one of them.",
        )
    if not wanted:
        near = nearest(name, list(claims))
        raise BackendError(
            f"no backend named {name!r} is installed"
            + (f"; did you mean {near!r}?" if near else ""),
            why=f"Installed: {', '.join(claims) or 'none'}.",
            remedy="Correct the recipe's Bootstrap: line, or install the plugin that has it.",
        )
    return wanted[0]


def load(name: str) -> Backend:
    """Import one backend and check it against the hook specifications. Raises BackendError."""
    chosen = find(name)
    manager = pluggy.PluginManager("singbuild")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(chosen.entry.load(), name)
        manager.check_pending()
        needs = manager.hook.singbuild_needs()
    except Exception as error:
        raise BackendError(
            f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}",
            remedy=f"It comes from {chosen.distribution} {chosen.version}; report it there.",
        ) from error
    if not isinstance(needs, Needs):
        raise BackendError(
            f"backend {name!r} does not keep the contract: singbuild_needs returned {needs!r}",
            remedy=f"It comes from {chosen.distribution} {chosen.version}; report it there.",
        )
    return Backend(chosen, needs, manager.hook)
