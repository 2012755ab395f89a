"""Loads site extensions and calls them; a broken one is named and never stops a build."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pluggy

from singbuild.backends import extension_hookspecs
from singbuild.contract import Build, Finished, Reporter
from singbuild.entry_points import Installed, claimed, imported, installed
from singbuild.errors import RecipeError, UsageError

GROUP = "singbuild.extension"
_VARIABLE = "SINGBUILD_EXTENSIONS"  # "no": none is called; a user can bring his own singbuild, too


@dataclass(frozen=True)
class Extensions:
    """The extensions that could be loaded. hooks: each one's own pluggy hooks."""

    hooks: Mapping[Installed, Any]
    report: Reporter

    def check(self, build: Build) -> None:
        """Refuse a recipe that the site objects to. Raises RecipeError with all objections.

        Each earlier stage is checked before the recipe itself.
        """
        for stage in build.stages:
            self.check(stage)
        texts = [
            f"{text} ({who.distribution})"
            for who, answers in self._call_each("singbuild_check_recipe", build=build)
            for answer in answers
            for text in ([answer] if isinstance(answer, str) else answer)
        ]
        if texts:
            raise RecipeError(
                build.recipe,
                0,
                0,
                "",
                "this site does not build such a recipe",
                why="\n".join(texts),
                remedy="Change the recipe, or ask the site's administrator.",
            )

    def announce_start(self, build: Build) -> None:
        """Tell that a build begins."""
        self._call_each("singbuild_build_started", build=build)

    def announce_end(self, build: Build, status: int, seconds: float) -> None:
        """Tell how a build ended."""
        size = build.image.stat().st_size if status == 0 else 0
        ended = Finished(status, round(seconds, 3), size)
        self._call_each("singbuild_build_finished", build=build, finished=ended)

    def _call_each(self, hook: str, **arguments: object) -> list[tuple[Installed, list[Any]]]:
        """Call a hook of each extension; return their answers."""
        answers = []
        for who, hooks in self.hooks.items():
            try:
                results = getattr(hooks, hook)(**arguments)
                answers.append(
                    (who, [each if isinstance(each, str) else [*each] for each in results])
                )
            except (Exception, SystemExit) as error:
                self.report.warn(_blame(who, f"failed in {hook}", error))
        return answers


def load(report: Reporter) -> Extensions:
    """Import every extension that is installed; warn of those that cannot be.

    Those that claim one name are all called: no package silences a site's policy by its name.
    Raises UsageError for a SINGBUILD_PLUGIN_TIMEOUT that is no number.
    """
    loaded: dict[Installed, Any] = {}
    everyone = installed(GROUP)
    if everyone and os.environ.get(_VARIABLE) == "no":
        names = ", ".join(who.name for who in everyone)
        report.warn(f"{_VARIABLE}=no leaves out the site's extensions: {names}")
        everyone = []
    for _name, group in groupby(everyone, lambda who: who.name):
        claims = list(group)
        if len(claims) > 1:
            report.warn(f"{claimed('extension', claims)}; each is called. Uninstall one of them")
    for who in everyone:
        manager = pluggy.PluginManager("singbuild")
        manager.add_hookspecs(extension_hookspecs)
        try:
            manager.register(imported(who, "extension"), who.name)
            manager.check_pending()
            loaded[who] = manager.hook
        except UsageError:  # of SINGBUILD_PLUGIN_TIMEOUT
            raise
        except (Exception, SystemExit) as error:
            report.warn(_blame(who, "cannot be loaded", error))
    return Extensions(loaded, report)


def _blame(who: Installed, what: str, error: BaseException) -> str:
    place = f"extension {who.name!r} ({who.distribution} {who.version})"
    return f"{place} {what}: {type(error).__name__}: {error}"
