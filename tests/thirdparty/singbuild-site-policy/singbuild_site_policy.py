"""A site's policy: recipes are pinned, tested, and take from known hosts alone.

SITE_HOSTS names the hosts, separated by blanks; without it any will do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from singbuild import Build, hookimpl


@hookimpl
def singbuild_check_recipe(build: Build) -> list[str]:
    """Say all at once what is wrong."""
    return list(_objections(build))


def _objections(build: Build) -> Iterator[str]:
    values = " ".join(build.keywords.values())
    if build.command == "build" and not build.locked and not re.search("[0-9a-f]{64}", values):
        yield "The base is not pinned: build with --locked, or name a digest."
    if build.command != "pull" and not build.sections.get("test", "").strip():
        yield "There is no %test."
    allowed = os.environ.get("SITE_HOSTS", "").split()
    for host in re.findall(r"https?://([^/:\s]+)", values):
        if allowed and host not in allowed:
            yield f"{host} is not a mirror of this site."
