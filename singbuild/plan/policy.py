"""Refuses builds that a configuration file does not allow: its settings that begin with "allow".

A policy binds nobody who brings a singbuild of his own; it tells what the site, or the user, has
decided, before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from singbuild.configuration import reading, settings
from singbuild.contract import is_yes
from singbuild.dockerfile import files, reader
from singbuild.dockerfile.actions import Copy
from singbuild.errors import HostError, LockError, RecipeError, RecipeKeyError
from singbuild.plan.options import Options
from singbuild.plan.plan import BOOTSTRAP_KEY, Plan
from singbuild.recipe.recipe import Header, Recipe

HOST_SECTIONS = ("pre", "setup")
UNVERIFIED = {"GPGCheck": False, "AllowExpired": True, "Insecure": True}


def check(plan: Plan, options: Options) -> None:
    """Refuse a build that is not allowed.

    Raises HostError, LockError, or RecipeError with the recipe's line.
    """
    if os.geteuid() == 0 and (why := _forbidden("allow root")):
        raise HostError("root may not build here", why=why, remedy="Build as a user.")
    for uri in options.open_caches:
        if why := _forbidden("allow unverified"):
            what = f"stages from {uri} are not allowed here: nobody says who made them"
            raise HostError(
                what, why=why, remedy="Pin a list of them, or add --cache-signers FILE."
            )
    needs_lock = options.command == "build" and not options.locked
    if needs_lock and (why := _forbidden("allow unlocked")):
        remedy = f"Add --locked; singbuild lock {plan.recipe.path} writes the lock."
        raise LockError("builds here keep to a lock", why=why, remedy=remedy)
    for each in (*plan.stages, plan):
        for error in _objections(each):
            raise error


def _objections(plan: Plan) -> Iterator[RecipeError]:
    recipe = plan.recipe
    if why := _other_backends(plan.backend.name):
        header = recipe.header(BOOTSTRAP_KEY) or recipe.header("From")
        if header and header.line:  # else nobody named it: an image is worked on as it is
            what = f"Bootstrap: {plan.backend.name} is not allowed here"
            yield recipe.error(header, what, why=why, remedy="Use a backend that is.")
    for name in HOST_SECTIONS:
        section = recipe.sections.get(name)
        if section and (why := _forbidden("allow host sections")):
            what = f"%{name} is not allowed here: it executes on the host"
            remedy = "Do its work in %files and %post."
            yield RecipeError(
                recipe.path, section.line, 0, f"%{name}", what, why=why, remedy=remedy
            )
    if why := _forbidden("allow unverified"):
        for header in _unverified(plan):
            what = f"{header.name}: {header.value} is not allowed here"
            remedy = "Leave it out; packages and downloads are verified then."
            yield recipe.error(header, what, why=why, remedy=remedy)


def check_downloads(recipe: Recipe, action: Copy) -> None:
    """Refuse what an ADD fetches by plain http without a digest, where that is not allowed.

    Raises RecipeError.
    """
    url = next(files.open_lines(action), "")
    if url and (why := _forbidden("allow unverified")):
        what = f"ADD of {url} by plain http is not allowed here"
        remedy = "Take an https URL, or add --checksum=sha256:DIGITS."
        raise reader.error(recipe.source, action.instruction, what, why=why, remedy=remedy)


def _unverified(plan: Plan) -> Iterator[Header]:
    """Yield the headers that let in what nobody has signed, or anybody on the way can change."""
    keywords, header_of = plan.source.keywords, plan.recipe.header
    for keyword, answer in UNVERIFIED.items():
        if keywords.get(keyword) and (header := header_of(keyword)):
            try:
                if is_yes(keywords, keyword) is answer:
                    yield header
            except RecipeKeyError as error:
                raise plan.located(error) from error
    if keywords.get("Registry", "").startswith("http://") and (header := header_of("Registry")):
        yield header


def _forbidden(name: str) -> str:
    """Return which line says no to something, "" if none does."""
    value = reading.current().values.get(name)
    return f"{value.source}: {name} = no" if value and not settings.is_yes(value.text) else ""


def _other_backends(name: str) -> str:
    """Return which line allows other backends than one, "" if none does."""
    value = reading.current().values.get("allow backend")
    if not value or name in reading.words(value.text):
        return ""
    return f"{value.source}: allow backend = {value.text}"
