"""Image files from web servers: https://, library:// and shub://."""

from __future__ import annotations

from singbuild import Source, Transport, hookimpl
from singbuild.download import Fetched
from singbuild_web import library, shub, url


@hookimpl
def singbuild_transport() -> Transport:
    """Files, to be fetched only."""
    return Transport("an image file on a web server: https://…, library://…, shub://…")


@hookimpl
def singbuild_get(source: Source) -> Fetched:
    """Fetch the file. Raises SourceError, RecipeKeyError."""
    return {"library": library.get, "shub": shub.get}.get(source.bootstrap, url.get)(source)
