"""Finds backends: lists them from metadata, loads the one that a recipe names.

A backend is an entry point of the group ``singbuild.bootstrap``. Listing
imports nobody's code; a broken plugin hurts only those who ask for it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import signal
import threading
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pluggy
import yaml

from singbuild import hookspecs
from singbuild.contract import API_VERSION, Defaults, Keyword, Needs, Program
from singbuild.errors import BackendError, SingbuildError
from singrun.errors import nearest

GROUP = "singbuild.bootstrap"
REQUIRED = ("singbuild_needs", "singbuild_resolve", "singbuild_bootstrap")
PATIENCE = 60.0  # seconds for a plugin's import; docker-py takes 0.2


@dataclass(frozen=True)
class Installed:
    """A backend as its distribution's metadata announces it; nothing is imported."""

    name: str
    distribution: str
    version: str
    entry: EntryPoint


@dataclass(frozen=True)
class Backend:
    """A loaded backend.

    needs: what ``singbuild_needs`` said; hooks: its pluggy hooks; deprecations: what its
    author should know, for the user to pass on.
    """

    installed: Installed
    needs: Needs
    hooks: Any
    deprecations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's ``Bootstrap:`` word."""
        return self.installed.name

    def call(self, hook: str, **arguments: object) -> Any:
        """Call a hook; what is not one of our errors becomes a BackendError naming the plugin."""
        try:
            answer = getattr(self.hooks, hook)(**arguments)
            _check_answer(hook, answer)
            return answer
        except (SingbuildError, OSError):
            raise
        except (Exception, SystemExit) as error:
            raise BackendError(
                f"backend {self.name!r} failed in {hook}: {type(error).__name__}: {error}",
                remedy=f"This is a bug in {self.installed.distribution} "
                f"{self.installed.version}, not in your recipe; report it there.",
            ) from error


def installed(group: str = GROUP) -> list[Installed]:
    """Return every plugin of a group that a distribution announces, sorted by name."""
    found = [
        Installed(entry.name, entry.dist.name or "?", entry.dist.version or "?", entry)
        for entry in entry_points(group=group)
        if entry.dist is not None
    ]
    # One distribution can be seen twice, installed and on the path of a checkout.
    return sorted({(each.name, each.distribution): each for each in found}.values(), key=_by_name)


def description(chosen: Installed) -> str:
    """Return the first line of a plugin's docstring, without importing it; "" if it has none."""
    spec = importlib.util.find_spec(chosen.entry.module)
    if spec is None or not spec.origin:
        return ""
    try:
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""
    return re.sub(r"^Bootstrap: [\w, -]+\. ", "", text.partition("\n")[0])


def _by_name(each: Installed) -> tuple[str, str]:
    return each.name, each.distribution


def find(name: str) -> Installed:
    """Return the backend of this name. Raises BackendError: none, or two that claim it."""
    claims: dict[str, list[Installed]] = defaultdict(list)
    for each in installed():
        claims[each.name].append(each)
    wanted = claims.get(name, [])
    if len(wanted) > 1:
        raise BackendError(claimed("backend", wanted), remedy="Uninstall one of them.")
    if not wanted:
        near = nearest(name, list(claims))
        raise BackendError(
            f"no backend named {name!r} is installed"
            + (f"; did you mean {near!r}?" if near else ""),
            why=f"Installed: {', '.join(claims) or 'none'}.",
            remedy="Correct the recipe's Bootstrap: line, or install the plugin that has it.",
        )
    return wanted[0]


def claimed(kind: str, claims: Sequence[Installed]) -> str:
    """Say whose distributions claim one name."""
    owners = " and ".join(f"{each.distribution} {each.version}" for each in claims)
    return f"the {kind} name {claims[0].name!r} is claimed by {owners}"


def load(name: str, specifications: ModuleType | type = hookspecs) -> Backend:
    """Import one backend and check it against the hook specifications.

    Raises BackendError, naming the plugin and its distribution, for whatever is wrong with it.
    """
    chosen = find(name)
    manager = pluggy.PluginManager("singbuild")
    manager.add_hookspecs(specifications)
    try:
        plugin = imported(chosen)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeprecationWarning)
            manager.register(plugin, name)
        manager.check_pending()
        _check_contract(plugin, manager)
        needs = manager.hook.singbuild_needs()
        _check_needs(needs)
    except BackendError:
        raise
    except (Exception, SystemExit) as error:
        raise BackendError(
            f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}",
            remedy=f"It comes from {chosen.distribution} {chosen.version}; report it there.",
        ) from error
    old = tuple(
        f"backend {name!r} ({chosen.distribution} {chosen.version}): {each.message}"
        for each in caught
        if issubclass(each.category, DeprecationWarning)
    )
    return Backend(chosen, needs, manager.hook, old)


def imported(chosen: Installed, kind: str = "backend") -> object:
    """Import a plugin; one that takes longer than PATIENCE is given up with a BackendError."""
    seconds = float(os.environ.get("SINGBUILD_PLUGIN_TIMEOUT") or PATIENCE)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise BackendError(
            f"{kind} {chosen.name!r} is still being imported after {seconds:g} s",
            remedy=f"It comes from {chosen.distribution} {chosen.version}; report it there. "
            "SINGBUILD_PLUGIN_TIMEOUT raises this limit.",
        )

    if threading.current_thread() is not threading.main_thread():
        return chosen.entry.load()  # only the main thread gets signals
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return chosen.entry.load()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _check_contract(plugin: object, manager: pluggy.PluginManager) -> None:
    """Refuse a plugin of a later contract, or without the hooks that every build calls."""
    wanted = getattr(plugin, "singbuild_contract", API_VERSION)
    if wanted != API_VERSION and not (isinstance(wanted, int) and wanted < API_VERSION):
        raise TypeError(f"it needs version {wanted} of the contract, this is {API_VERSION}")
    missing = [name for name in REQUIRED if not getattr(manager.hook, name).get_hookimpls()]
    if missing:
        raise TypeError(f"it has no {' and no '.join(missing)} marked with @hookimpl")


def _check_needs(needs: object) -> None:
    if not isinstance(needs, Needs):
        raise TypeError(f"singbuild_needs returned {needs!r}, not Needs")
    for each, kind in [(k, Keyword) for k in needs.keywords] + [
        (p, Program) for p in needs.programs
    ]:
        if not isinstance(each, kind):
            raise TypeError(f"Needs holds {each!r}, not a {kind.__name__}")
    if not isinstance(needs.space, int):
        raise TypeError(f"Needs.space is {needs.space!r}, not a number of bytes")


def _check_answer(hook: str, answer: object) -> None:
    """Refuse an answer of another kind than the hook's specification says."""
    if hook == "singbuild_resolve":
        if not isinstance(answer, Mapping):
            raise TypeError(f"it returned {answer!r}, not pins under string keys")
        yaml.safe_dump(_plain(answer))
    if hook == "singbuild_defaults" and not isinstance(answer, Defaults | None):
        raise TypeError(f"it returned {answer!r}, not Defaults")


def _plain(value: object) -> object:
    """Pins as YAML sees them; what it cannot say is left for it to refuse."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


def code_digest(*modules: str) -> str:
    """Return the SHA-256 of the source of modules and packages, as installed.

    A plugin that is being worked on keeps its version; what it made before is not to
    be taken from the cache.
    """
    total = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            origin = Path(spec.origin)
            package = spec.submodule_search_locations
            for file in sorted(origin.parent.rglob("*.py")) if package else [origin]:
                total.update(file.read_bytes())
    return total.hexdigest()
