"""Some sections of a definition file, as ``--section`` names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from singbuild.errors import UsageError
from singbuild.recipe.recipe import Recipe

# The others say what the image is, and are its metadata.
NAMES = (
    "setup",
    "post",
    "files",
    "environment",
    "labels",
    "help",
    "runscript",
    "startscript",
    "test",
)


def only(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """Return a recipe with the named sections only; "all" is all of them, "none" none.

    words: each a comma list; none: all. Raises UsageError.
    """
    names = [name for word in words for name in word.split(",")]
    if unknown := [name for name in names if name not in (*NAMES, "all", "none")]:
        choices = ", ".join(("all", "none", *NAMES))
        raise UsageError(f"there is no section {unknown[0]}", remedy=f"Say one of {choices}.")
    if not names or "all" in names:
        return recipe
    if recipe.is_dockerfile:
        remedy = "A Dockerfile has none; leave --section out."
        raise UsageError(f"there is no section {names[0]}", remedy=remedy)
    sections = {name: each for name, each in recipe.sections.items() if name in names}
    return replace(
        recipe,
        sections=MappingProxyType(sections),
        files=recipe.files if "files" in names else (),
        labels=recipe.labels if "labels" in names else (),
        apps=(),
    )
