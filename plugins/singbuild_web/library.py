"""library://: a Singularity library, by the requests that Apptainer's client makes.

GET v1/images/ENTITY/COLLECTION/NAME:TAG?arch=amd64      its digest
GET v1/imagefile/ENTITY/COLLECTION/NAME:TAG?arch=amd64   the file
"""

from __future__ import annotations

import os
import re

from singbuild import RecipeKeyError, Source, SourceError
from singbuild.download import Fetched, NotFoundError, fetch, is_open_line
from singbuild_web.url import answer

VARIABLES = ("SINGBUILD_LIBRARY", "APPTAINER_LIBRARY", "SINGULARITY_LIBRARY")
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(?:(?:({_PART})/)?({_PART})/)?({_PART})(?::({_PART}))?")
# Sylabs' library writes a dot.
_DIGEST = re.compile("sha256[.:]([0-9a-f]{64})")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}


def get(source: Source) -> Fetched:
    """Fetch the image, checked against the digest that the library tells. Raises SourceError.

    By plain http the recipe has to tell it too.
    """
    base, path = _place(source)
    expected = source.keywords.get("SHA256", "").strip().lower()
    if is_open_line(base) and not expected:
        raise SourceError(
            f"library://{path}: the library at {base} answers by plain http",
            why="Anybody on the way could put another image, and its digest, in its place.",
            remedy="Use its https URL, or say in a recipe which image it is: SHA256: DIGITS.",
        )
    where = f"{path}?arch={_MACHINES.get(source.arch, source.arch)}"
    try:
        data = answer(f"{base}/v1/images/{where}", source).get("data")
    except NotFoundError as error:
        raise SourceError(
            f"library://{path}: the library at {base} has no such image",
            why=error.why,
            remedy="Check the name, the tag and the machine.",
        ) from error
    match = _DIGEST.fullmatch(str(data.get("hash"))) if isinstance(data, dict) else None
    if not match:
        raise SourceError(
            f"library://{path}: the library at {base} tells no SHA-256 of it",
            remedy="Check that this server is a library.",
        )
    if expected and expected != match[1]:
        raise SourceError(
            f"library://{path}: is another image than the one asked for",
            why=f"expected {expected}\n     got {match[1]}",
            remedy="Find out who changed it; if that was on purpose, give the new digest.",
        )
    url = f"{base}/v1/imagefile/{where}"
    label = path.rpartition("/")[2]
    return fetch(url, source.cache, report=source.report, sha256=match[1], label=label)


def _place(source: Source) -> tuple[str, str]:
    """Return the library's URL, and ENTITY/COLLECTION/NAME:TAG."""
    text = re.sub("^(library:)?/*", "", source.keywords["From"].strip())
    first, _, rest = text.partition("/")
    if set(first) & set(".:") and rest.count("/") >= 2:
        base, text = f"https://{first}", rest
    else:
        addresses = (source.keywords.get("Library", ""), *map(os.environ.get, VARIABLES))
        base = next(filter(None, addresses), "") or ""
    if not base:
        raise RecipeKeyError(
            "From",
            f"library://{text} does not say which library",
            why="There is none that everybody uses.",
            remedy=f"Write library://HOST/ENTITY/COLLECTION/NAME:TAG, or set {VARIABLES[0]} to "
            "the library's URL. Plain distributions are on registries too, as docker://NAME:TAG.",
        )
    match = _NAME.fullmatch(text)
    if not match:
        raise RecipeKeyError(
            "From",
            f"{text!r} is no name of an image",
            remedy="Write ENTITY/COLLECTION/NAME:TAG.",
        )
    entity, collection, name, tag = match.groups()
    whole = f"{entity or 'library'}/{collection or 'default'}/{name}:{tag or 'latest'}"
    return base.rstrip("/"), whole
