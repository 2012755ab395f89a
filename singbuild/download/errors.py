"""The errors of a download, made without requests; ``answers.py`` makes those of servers."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from singbuild.errors import SourceError

_CREDENTIALS = re.compile(r"(?<!ssh)://[^/?#]*@", re.IGNORECASE)  # RFC 3986 section 3.2.1


class NotFoundError(SourceError):
    """The server, or the host, has no such file."""


class TryAgainError(Exception):
    """An attempt that failed and may succeed later.

    error: what to raise if it never does; wait: seconds that the server asks for.
    """

    def __init__(self, error: SourceError, wait: float = 0.0) -> None:
        super().__init__(error)
        self.error, self.wait = error, wait


def public_url(url: str) -> str:
    """Return a URL, or a text with URLs, without the names and passwords in them.

    The name may be a token. In a URL of ssh a name is needed, and no secret.
    """
    return _CREDENTIALS.sub("://", url)


def server_of(url: str) -> str:
    """Return the host in a URL, with a port that it has, for a message."""
    return urlsplit(public_url(url)).netloc


def cannot_fetch(url: str, why: str, remedy: str = "") -> SourceError:
    """Return the error for a file that could not be fetched."""
    remedy = remedy or "Try again later, or use another mirror."
    return SourceError(f"{url}: cannot be fetched", why=why, remedy=remedy)


def too_large(url: str, limit: int) -> SourceError:
    """Return the error for a file of more than ``limit`` bytes."""
    return SourceError(
        f"{url}: is larger than the {limit:,} bytes that it may have",
        remedy="Check that the URL names the right file.",
    )


def wrong_digest(url: str, expected: str, actual: str) -> SourceError:
    """Return the error for a file that is not the one that was asked for."""
    return SourceError(
        f"{url}: has the wrong SHA-256",
        why=f"expected {expected}\n     got {actual}",
        remedy="Find out who changed the file; if it was changed on purpose, give its new digest.",
    )
