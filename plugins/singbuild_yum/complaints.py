"""Errors for words that a solver has nothing for, by the recipe's keyword where it has them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from singbuild import RecipeKeyError, SourceError


def explained(
    lacking: Iterable[str],
    include: Sequence[str],
    base: Sequence[str],
    packages: Iterable[str],
    otherwise: SourceError,
) -> RecipeKeyError | SourceError:
    """Return the error for the first word that the recipe, or every image, asks for in vain.

    lacking: words that the solver has nothing for; packages: names of all; otherwise: the error
    where none of these words is meant.
    """
    for spec in lacking:
        package = next((word for word in include if word.lstrip("@") == spec.lstrip("@")), "")
        if package:
            near = difflib.get_close_matches(package, list(packages), n=3, cutoff=0.8)
            remedy = f"Did you mean {' or '.join(near)}?" if near else "It may be in another one."
            return RecipeKeyError(
                "Include", f"Include: the repositories have no {package!r}", remedy=remedy
            )
        if spec in base:
            return SourceError(
                f"the repositories have no {spec}, which every image gets",
                remedy="MirrorURL must name the repository of a distribution's base.",
            )
    return otherwise
