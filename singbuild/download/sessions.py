"""HTTP sessions that tell nobody but the server in the URL who the user is.

An origin is scheme, host and port (RFC 6454). A credential stays with its origin; what was
asked for by https is never fetched by http, and no server elsewhere sends us to this machine.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url, get_environ_proxies, select_proxy

PORTS = {"http": 80, "https": 443}


class RedirectError(requests.RequestException):
    """A server sends us where we do not go."""


class Session(requests.Session):
    """A session as requests has it, with other rules for credentials and redirects.

    insecure: redirects may lead from https to http.
    """

    def __init__(self, *, insecure: bool = False) -> None:
        super().__init__()
        self.insecure = insecure
        # Without any, requests would send what ~/.netrc has for the host, or for every host.
        self.auth = _InUrl()

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where an answer sends us, None for nowhere. Raises RedirectError."""
        target = super().get_redirect_target(resp)
        if target is not None:
            before = urlsplit(resp.url)
            try:
                after = urlsplit(urljoin(resp.url, target))
                origin(after.geturl())
            except ValueError:
                raise RedirectError(f"{before.netloc} sends us on to {target!r}") from None
            if (before.scheme, after.scheme) == ("https", "http") and not self.insecure:
                raise RedirectError(f"{before.netloc} sends us on to {after.netloc} by plain http")
            to_itself = before.hostname == after.hostname or is_loopback(before.hostname or "")
            if not to_itself and leads_here(after.geturl()):
                raise RedirectError(f"{before.netloc} sends us on to this machine itself")
            # requests reads it whole, be it endless, to use the connection again.
            resp._content = b""
            resp.close()
        return target

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Forget who we are on the way to another origin (RFC 9110 section 15.4)."""
        if origin(response.request.url or "") != origin(prepared_request.url or ""):
            prepared_request.headers.pop("Authorization", None)


class _InUrl(AuthBase):
    """Sends the name and the password that stand in a URL itself."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        name, password = get_auth_from_url(request.url or "")
        return HTTPBasicAuth(name, password)(request) if name or password else request


def origin(url: str) -> tuple[str, str, int | None]:
    """Return the scheme, the host and the port of a URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme)


def leads_here(url: str) -> bool:
    """Whether a URL's host is this machine itself, by its name or by what DNS has for the name.

    A proxy looks names up for itself.
    """
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        return True
    if select_proxy(url, get_environ_proxies(url)):
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(is_loopback(str(address[0])) for *_, address in found)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, without port, is this machine itself."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1, 0x7f000001
        except (OSError, UnicodeError):
            return host == "localhost" or host.endswith(".localhost")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified
