"""https://: a file on a web server. Its digest may stand behind the URL: #sha256=DIGITS."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from singbuild import RecipeKeyError, Source, SourceError
from singbuild.download import Fetched, fetch, is_open_line, stored

LARGEST_ANSWER = 1 << 20  # bytes of JSON


def get(source: Source) -> Fetched:
    """Fetch what the URL names; by plain http only with a digest. Raises SourceError."""
    name = re.sub("^(https?:)?//", "", source.keywords["From"].strip())
    place, _, fragment = name.partition("#")
    sha256 = fragment.removeprefix("sha256=") or source.keywords.get("SHA256", "").strip()
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise RecipeKeyError("From", f"{sha256!r} is no SHA-256", remedy="It has 64 hex digits.")
    url = f"{source.bootstrap}://{place}"
    if is_open_line(url) and not sha256:
        raise SourceError(
            f"{url}: would be fetched by plain http",
            why="Anybody on the way could put another file in its place.",
            remedy=f"Use https, or say which file is meant: {url}#sha256=DIGITS",
        )
    return fetch(url, source.cache, report=source.report, sha256=sha256)


def answer(url: str, source: Source) -> Mapping[str, Any]:
    """Fetch a JSON object. Raises SourceError."""
    file = fetch(url, source.cache, report=source.report, size_limit=LARGEST_ANSWER)
    try:
        document = json.loads(stored(source.cache, file.sha256, LARGEST_ANSWER))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SourceError(
            f"{url}: answers with something else than a JSON object",
            remedy="Check that this server is one of that kind.",
        )
    return document
