"""Keys and agents of Singularity and Apptainer that no backend here has: data, and what to say."""

from __future__ import annotations

from singbuild.errors import RecipeError
from singbuild.recipe.grammar import Recipe

# Header keys of their agents, in small letters: a recipe that changed its agent may have some left.
KEYS = frozenset(
    """
    confurl from fingerprints gpgkey include includecmd installpkg library metalink mirrorurl
    modules monitor namespace osversion otherurl product productpgp registerurl registry regcode
    setopt token updateurl user
    """.split()  # noqa: SIM905 - a list of quoted words is no easier
)
_AGENTS = {  # what it is; what to do instead
    "self": (
        "It copies the system of the host.",
        "Make a tar archive of it, and an image with singbuild create and singbuild import.",
    ),
}


def unknown(recipe: Recipe) -> RecipeError | None:
    """Return the error for an agent that Singularity or Apptainer has; None for any other word."""
    header = recipe.header("bootstrap")
    if header is None or header.value.lower() not in _AGENTS:
        return None
    why, remedy = _AGENTS[header.value.lower()]
    return recipe.error(header, f"there is no backend {header.value}", why=why, remedy=remedy)
