"""Refuses what a recipe of strangers must not do: read this host's files, or run on it.

A build confines its sections (SECURITY.md); what a definition file may do outside of them by design
is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from singbuild.errors import RecipeError
from singbuild.hub.recipes import Inputs
from singbuild.recipe.recipe import ON_THE_HOST, Header, Recipe

_ENGINE = "docker-daemon"
_FILE = "file:"
# Of these only URLs of files are refused: a path in Include is a package that has the file.
_CAPABILITIES = ("include", "mirrorurl", "updateurl")


def check(recipe: Recipe, inputs: Inputs, *, may_run_on_host: bool = False) -> None:
    """Refuse a recipe that would leave its repository. Raises RecipeError.

    may_run_on_host: allow ``%setup`` and ``%pre``, which run as whoever builds.
    """
    for stage in (*recipe.stages, recipe):
        header = stage.header("Bootstrap")
        if header and header.value.lower() == _ENGINE:
            raise stage.error(
                header,
                "Bootstrap: docker-daemon takes images of this host",
                remedy="Push the image to a registry, and name it there.",
            )
        for name in ON_THE_HOST:
            if name in stage.sections and not may_run_on_host:
                line = stage.sections[name].line
                raise RecipeError(
                    recipe.path,
                    line,
                    0,
                    recipe.line(line),
                    f"%{name} would run on this host, outside the image",
                    remedy="Do it in %post; or, if you trust the repository, add --allow-setup.",
                )
        for item in stage.files:
            if not item.stage and _leaves(inputs.directory, item.source):
                raise RecipeError(
                    recipe.path,
                    item.line,
                    0,
                    recipe.line(item.line),
                    f"%files: {item.source} is outside the repository",
                    remedy="Commit the file, and name it by a relative path.",
                )
        for header in () if recipe.is_dockerfile else stage.headers:
            if any(_leaves(inputs.directory, word) for word in _paths(header)):
                raise stage.error(
                    header,
                    f"{header.name} names a file outside the repository",
                    remedy="Commit the file, and name it by a relative path.",
                )


def _paths(header: Header) -> Iterator[str]:
    """Yield the words of a header's value that name files of the host."""
    if header.name.lower() in _CAPABILITIES:
        words = [word for word in header.value.split() if _is_url_of_file(word)]
    else:
        words = header.value.split()
    for word in words:
        if _is_url_of_file(word):
            yield "/" + word[len(_FILE) :]
        elif "://" not in word:
            yield word


def _is_url_of_file(word: str) -> bool:
    return word.lower().startswith(_FILE)


def _leaves(directory: str, path: str) -> bool:
    """Whether a path leads out of the checkout that ``directory`` is in."""
    depth = 0
    for part in PurePosixPath(directory, path).parts:
        depth += {"..": -1, ".": 0}.get(part, 1)
        if part == "/" or depth < 0:
            return True
    return path.startswith("~")
