"""The hooks of a site extension, in the order in which a build calls them.

An extension is a module named by an entry point of the group ``singbuild.extension``.
All that are installed are loaded for every build. One that is broken, or fails, is
warned of by name and distribution and never stops a build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from singbuild.contract import Build, Finished

hookspec = pluggy.HookspecMarker("singbuild")


@hookspec
def singbuild_check_recipe(build: Build) -> Iterable[str]:
    """Say what the site objects to in a recipe.

    When: after the engine's own checks, before anything is written; for ``singbuild plan``,
    which only warns, ``build.command`` is "plan".
    Assume: the recipe is valid, its backend is there.
    Return: one sentence for each objection; any refuses the build, with status 3.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError


@hookspec
def singbuild_build_started(build: Build) -> None:
    """Learn that a build begins.

    When: after all checks.
    Assume: nothing is there yet.
    Return: nothing; the build waits for it.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError


@hookspec
def singbuild_build_finished(build: Build, finished: Finished) -> None:
    """Learn how a build ended.

    When: when the target is in place, or everything is cleaned up; not after SIGKILL.
    Assume: ``build.image`` is there if ``finished.status`` is 0.
    Return: nothing.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError
