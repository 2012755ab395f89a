"""Finds backends: lists them from metadata, loads the one that a recipe names.

A backend is an entry point of the group ``singbuild.bootstrap``. Listing
imports nobody's code; a broken plugin hurts only those who ask for it.
"""

from __future__ import annotations

import ast
import re
import sys
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
import yaml

from singbuild import hookspecs
from singbuild.contract import API_VERSION, Defaults, Keyword, Needs, Program
from singbuild.entry_points import Installed, imported, installed, module_spec, only
from singbuild.errors import BackendError, SingbuildError, UsageError
from singrun.errors import nearest

GROUP = "singbuild.bootstrap"
REQUIRED = ("singbuild_needs", "singbuild_resolve", "singbuild_bootstrap")


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
        # SystemExit: a plugin's sys.exit(0) would else end the build as a success.
        except (Exception, SystemExit) as error:
            raise BackendError(
                f"backend {self.name!r} failed in {hook}: {type(error).__name__}: {error}",
                why=_place(error),
                remedy=f"This is a bug in {self.installed.distribution} "
                f"{self.installed.version}, not in your recipe; report it there.",
            ) from error


def description(plugin: Installed) -> str:
    """Return the first line of a plugin's docstring, without importing it; "" if it has none."""
    spec = module_spec(plugin.entry.module)
    if spec is None or not spec.origin:
        return ""
    try:
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""
    return re.sub(r"^Bootstrap: [\w, -]+\. ", "", text.partition("\n")[0])


def _place(error: BaseException) -> str:
    """Return the line of code that raised an error, without the frames of ours and of pluggy."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip()}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/pluggy/" not in frame.filename and frame.filename != __file__
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f"{last.filename}, line {last.lineno}, in {last.name}: {last.line}"


def find(name: str) -> Installed:
    """Return the backend of this name. Raises BackendError: none, or two that claim it."""
    remedy = f"Correct the name, or install the plugin that has it where singbuild is: {sys.prefix}"
    return only("backend", name, installed(GROUP), remedy)


def load(name: str, specifications: ModuleType | type = hookspecs) -> Backend:
    """Import one backend and check it against the hook specifications.

    Raises BackendError, naming the plugin and its distribution, for whatever is wrong with it.
    """
    origin = find(name)
    manager = pluggy.PluginManager("singbuild")
    manager.add_hookspecs(specifications)
    try:
        plugin = imported(origin, "backend")
        with warnings.catch_warnings(record=True) as caught:
            # Else Python ignores those of all modules but __main__: warnings, "Default
            # Warning Filter".
            warnings.simplefilter("always", DeprecationWarning)
            manager.register(plugin, name)
        manager.check_pending()
        _check_contract(plugin, manager)
        needs = manager.hook.singbuild_needs()
        _check_needs(needs)
    except (BackendError, UsageError):  # the latter of SINGBUILD_PLUGIN_TIMEOUT
        raise
    except (Exception, SystemExit) as error:
        raise BackendError(
            f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}",
            why=_place(error) or _meant(str(error), specifications),
            remedy=f"It comes from {origin.distribution} {origin.version}; report it there.",
        ) from error
    old = tuple(
        f"backend {name!r} ({origin.distribution} {origin.version}): {each.message}"
        for each in caught
        if issubclass(each.category, DeprecationWarning)
    )
    return Backend(origin, needs, manager.hook, old)


def _meant(text: str, specifications: ModuleType | type) -> str:
    """Return what to say of a hook that pluggy does not know."""
    word = re.search("unknown hook '(\\w+)'", text)
    hooks = [name for name in vars(specifications) if name.startswith("singbuild_")]
    near = nearest(word[1], hooks) if word else ""
    return f"Did you mean {near}?" if near else ""


def _check_contract(plugin: object, manager: pluggy.PluginManager) -> None:
    """Refuse a plugin of a later contract, or without the hooks that every build calls."""
    needed_version = getattr(plugin, "singbuild_contract", API_VERSION)
    if needed_version != API_VERSION and not (
        isinstance(needed_version, int) and needed_version < API_VERSION
    ):
        raise TypeError(f"it needs version {needed_version} of the contract, this is {API_VERSION}")
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
