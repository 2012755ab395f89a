"""The files of the host that a recipe's %files names."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from singbuild.errors import RecipeError
from singbuild.recipe.grammar import CopyItem, Recipe

UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Names of images that are being written, which may lie where %files begins: never copied."""


def matches(recipe: Recipe, item: CopyItem) -> list[str]:
    """Return the host paths that a %files line names, sorted. Raises RecipeError for none."""
    sources = sorted(glob.glob(item.source)) or [item.source] * os.path.lexists(item.source)  # noqa: PTH207
    sources = [path for path in sources if not UNFINISHED.fullmatch(os.path.basename(path))]  # noqa: PTH119
    if not sources:
        raise RecipeError(
            recipe.path,
            item.line,
            0,
            recipe.line(item.line),
            f"%files: {item.source} does not exist",
            why=f"Relative paths start at {Path.cwd()}.",
            remedy="Correct the path, or start singbuild in the directory that has it.",
        )
    return sources
