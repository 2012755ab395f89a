"""Refuses what a recipe of strangers must not do: read this host's files, or run on it.

A build confines its sections (SECURITY.md); what a definition file may do outside of them by design
is refused here.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from singbuild.errors import RecipeError
from singbuild.hub.recipes import Inputs
from singbuild.recipe.recipe import ON_THE_HOST, Header, Recipe

_ENGINE = "docker-daemon"
_NAME = re.compile(r"^[\w.-]+=")  # of a repository, as in Repositories: NAME=URL
# A scheme of other signs than letters may be filled in: %{OSVERSION}:///srv, OSVersion: file.
_URL_OF_FILE = re.compile(r"file:|[^/]*[^a-z/][^/]*://", re.IGNORECASE)
_REMEDY = "Commit the file, and name it by a relative path, with .. at its start or nowhere."


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
                    why=_why(item.source),
                    remedy=_REMEDY,
                )
        for header in () if recipe.is_dockerfile else stage.headers:
            if _names_outside(inputs.directory, header):
                raise stage.error(
                    header,
                    f"{header.name} names a file outside the repository",
                    why=_why(header.value),
                    remedy=_REMEDY,
                )


def _names_outside(directory: str, header: Header) -> bool:
    """Whether a header's value, or a word of it, is a path or a URL of a file outside.

    Backends take the whole value, or a list whose words have blanks or commas between them. A path
    in Include is a package that has the file.
    """
    words = header.value.split()
    items = [_NAME.sub("", item) for word in words for item in word.split(",")]
    paths = () if header.name.lower() == "include" else (header.value, *words, *items)
    return any(map(_URL_OF_FILE.match, items)) or any(_leaves(directory, path) for path in paths)


def _leaves(directory: str, path: str) -> bool:
    """Whether a path leads out of the checkout that ``directory`` is in, or may do so.

    Links of a checkout lead inside it; but the kernel follows ``..`` from where a link leads.
    """
    parts = PurePosixPath(path).parts
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return (
        path.startswith(("/", "~"))
        or up > len(PurePosixPath(directory).parts)
        or ".." in parts[up:]
    )


def _why(text: str) -> str:
    return "Behind a name, which may be a link, .. may lead anywhere." if ".." in text else ""
