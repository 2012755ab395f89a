"""shub://: the protocol of Singularity Hub, which is closed; registries of sites speak it.

GET https://HOST/api/container/USER/REPOSITORY:TAG answers with JSON whose ``image`` is the URL.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

from singbuild import RecipeKeyError, Source, SourceError
from singbuild.download import Fetched, NotFoundError, fetch, is_loopback, is_open_line, named_by
from singbuild_web.url import answer

_NAME = re.compile(
    r"(?://)?([-.a-zA-Z0-9/:]{1,64})/([-a-zA-Z0-9]{1,39}/[-_.a-zA-Z0-9]{1,64})"
    r"(:[-_.a-zA-Z0-9]{1,64})?(@(?:[a-f0-9]{32}|[a-f0-9]{40}))?"
)


def get(source: Source) -> Fetched:
    """Fetch the image; no digest of it is told, so give one. Raises SourceError."""
    text = source.keywords["From"].strip().removeprefix("shub://")
    match = _NAME.fullmatch(text)
    if not match:
        raise RecipeKeyError(
            "From",
            f"shub://{text} does not say which registry",
            why="Singularity Hub itself was closed in 2021.",
            remedy="Write shub://HOST/USER/REPOSITORY:TAG. Many authors have moved their images "
            "to other registries: look at the repository's page.",
        )
    host, repository, tag, commit = match.groups()
    scheme = "http" if is_loopback(host.partition(":")[0]) else "https"
    which = f"{tag or ('' if commit else ':latest')}{commit or ''}"
    url = f"{scheme}://{host}/api/container/{repository}{which}"
    try:
        image = answer(url, source).get("image")
    except NotFoundError as error:
        raise SourceError(
            f"shub://{text}: the registry has no such image",
            why=error.why,
            remedy="Check the name and the tag.",
        ) from error
    place = urljoin(url, image) if isinstance(image, str) else ""
    expected = source.keywords.get("SHA256", "").strip().lower()
    if not place.startswith(("https://", "http://")) or (is_open_line(place) and not expected):
        raise SourceError(
            f"shub://{text}: the registry names no place for it that can be trusted",
            why=f"It names {str(image)[:200]!r}.",
            remedy="Give the file's digest, 'SHA256: DIGITS', or use another registry.",
        )
    label = repository.rpartition("/")[2]
    with named_by(url):
        return fetch(place, source.cache, report=source.report, sha256=expected, label=label)
