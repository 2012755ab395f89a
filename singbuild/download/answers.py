"""Errors of servers, and of connections to them: why, and whether a second attempt may succeed."""

from __future__ import annotations

import contextlib
import socket

import requests
import urllib3.exceptions

from singbuild.download import limits
from singbuild.download.addresses import RedirectError
from singbuild.download.errors import NotFoundError, TryAgainError, cannot_fetch
from singbuild.errors import SourceError

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # RFC 9110 section 15, RFC 6585 section 4

# In this order: what a proxy fails by is in the chain, too, such as a refused connection.
FINAL: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (requests.exceptions.ProxyError,),
        "the proxy does not let us through: {reason}",
        "Check the variables http_proxy, https_proxy and no_proxy.",
    ),
    (
        (RedirectError,),
        "{reason}",
        "Name the place itself if you trust it, or have the server's administrator correct it.",
    ),
    (
        (requests.exceptions.SSLError,),
        "no secure connection to {server}: {reason}",
        "Check the URL, the server's certificate, and this host's clock and CA certificates.",
    ),
    (
        (socket.gaierror,),
        "the name {server} cannot be resolved",
        "Correct the name, or check this host's network and name servers.",
    ),
    ((ConnectionRefusedError,), "{server} refuses connections", ""),
    ((urllib3.exceptions.ConnectTimeoutError,), "{server} does not answer", ""),
    ((urllib3.exceptions.NewConnectionError,), "{server} cannot be reached: {reason}", ""),
    (
        (
            requests.exceptions.InvalidSchema,
            requests.exceptions.InvalidURL,
            requests.exceptions.TooManyRedirects,
        ),
        "{reason}",
        "Correct the URL.",
    ),
)
"""Failures that no second attempt mends: the exceptions, the reason, the remedy."""


def refused(url: str, answer: requests.Response) -> SourceError | TryAgainError:
    """Return the error for an answer with a status of 400 or more."""
    why = f"the server answers {answer.status_code} {answer.reason}"
    if answer.status_code in (requests.codes.not_found, requests.codes.gone):
        return NotFoundError(f"{url}: does not exist", why=why, remedy="Correct the URL.")
    if answer.status_code in TRANSIENT:
        return TryAgainError(cannot_fetch(url, why), _retry_after(answer))
    return cannot_fetch(url, why, "Correct the URL, or get the access that the server asks for.")


def broken(url: str, error: Exception, arrived: int) -> SourceError | TryAgainError:
    """Return the error for an answer that never came, or broke off after ``arrived`` bytes."""
    causes = _causes(error)
    server = url.split("/")[2]
    for kinds, why, remedy in FINAL:
        if any(isinstance(cause, kinds) for cause in causes):
            reason = getattr(causes[-1], "verify_message", "") or str(causes[-1])
            return cannot_fetch(url, why.format(server=server, reason=reason), remedy)
    if any(isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError) for cause in causes):
        return TryAgainError(
            cannot_fetch(url, f"{server} sent nothing for {limits.TIMEOUT[1]:g} s")
        )
    return TryAgainError(cannot_fetch(url, f"the connection broke after {arrived} bytes"))


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an exception and what caused it, the root cause last."""
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _retry_after(answer: requests.Response) -> float:
    """Return the seconds that the server asks us to wait (RFC 9110 section 10.2.3)."""
    with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return urllib3.Retry().get_retry_after(answer.raw) or 0.0
    return 0.0
