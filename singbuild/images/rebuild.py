"""Builds an image once more, from the recipe and the lock that are in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from singbuild import build
from singbuild.console.display import Console
from singbuild.dockerfile import loading as dockerfiles
from singbuild.errors import SingbuildError
from singbuild.formats import loading as formats
from singbuild.images import parts
from singbuild.plan import lock as locks
from singbuild.plan import plan
from singbuild.plan.lock import Lock
from singbuild.plan.options import Options
from singbuild.privilege.modes import Mode
from singbuild.recipe import grammar
from singbuild.recipe.recipe import ON_THE_HOST, Recipe
from singbuild.recipe.text import Text

_FIX_PERMS = "--fix-perms"
_MOST_FREE = 1 << 40  # bytes


def again(image: Path, target: Path, console: Console, *, privilege: Mode | None) -> int:
    """Build an image's recipe to its lock, without the cache; return the build's exit status.

    Raises SingbuildError for an image that does not say how it was built, whose build took of its
    host what nobody else has, or that would have this host execute something outside the image.
    """
    with formats.opened(image) as tree:
        contents = (parts.part(tree, name) for name in ("recipe", "lock"))
        recipe, lock = (content.decode(errors="replace") for content in contents)
        record = parts.record(tree)
    host = record.get("host")
    words = [str(each) for each in host] if isinstance(host, list) else []
    if others := [word for word in words if word != _FIX_PERMS] or record.get("resumed"):
        text = ", ".join(others) if isinstance(others, list) else "--resume"
        raise SingbuildError(
            f"{image} cannot be built again from its recipe and its lock alone",
            why=f"Its build was given {text}.",
            remedy="Build it without; then anybody can build it again.",
        )
    free = record.get("free")
    lock_file = locks.parsed(Path(f"lock of {image}"), lock)
    options = Options(
        test=False,
        free=min(max(free, 0), _MOST_FREE) if isinstance(free, int) else 0,
        use_cache=False,
        locked=lock_file,
        format=formats.kind_of(image).name,
        owner_may=_FIX_PERMS in words,
        privilege=privilege,
    )
    try:
        own, arch = _recipe(recipe, lock_file.lock), str(lock_file.lock["arch"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SingbuildError(f"the lock in {image} is none of a build", why=f"{error!r}") from error
    for stage in (*own.stages, own):
        for name in ON_THE_HOST:
            if name in stage.sections:
                raise SingbuildError(
                    f"{image} is not built again: its recipe has %{name}",
                    why="That would be executed on this host, outside the image, as you.",
                    remedy="Read it (singbuild inspect --recipe), build it, and compare the images "
                    "with singbuild diff.",
                )
    return build.build(plan.make(own, console, arch), target, options, console)


def _recipe(text: str, lock: Lock) -> Recipe:
    """Return what an image has of its recipe: a template is filled in already."""
    source, arguments = Text(str(lock["recipe"]["name"]), text), dict(lock["arguments"])
    if dockerfiles.is_dockerfile(source):
        return dockerfiles.parse(source, {key: str(value) for key, value in arguments.items()})
    return replace(grammar.parse(source), arguments=arguments)
