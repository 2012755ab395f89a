"""Where a server may send us: nowhere nearer to this machine than it is itself.

A server that the user named may be anywhere. Whom it names (by a redirect, as its token server, as
the place of a layer) is checked by the address of the connection, before a byte is sent: what DNS
said earlier proves nothing, since its next answer may be another one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from singbuild.download import nearness
from singbuild.download.errors import server_of
from singbuild.download.nearness import HERE, LINK, PRIVATE
from singbuild.errors import HostError

LOCAL = "SINGBUILD_LOCAL_NETWORKS"
PORTS = {"http": 80, "https": 443}
Origin = tuple[str, str, int | None]
_WORDS = {PRIVATE: "a private network", LINK: "a link-local address", HERE: "this machine itself"}

_nearness: dict[Origin, int] = {}  # of origins that have answered, for as long as we live
_namer: ContextVar[str] = ContextVar("namer", default="")  # URL of who names what is asked for
_limit: ContextVar[int] = ContextVar("limit", default=HERE)
_peer_nearness: ContextVar[int | None] = ContextVar("peer_nearness", default=None)


class RedirectError(requests.RequestException):
    """A server sends us where we do not go."""


class _TooNearError(Exception):
    """The peer of a connection is nearer than it may be; no OSError, which urllib3 would take."""


def origin(url: str) -> Origin:
    """Return the scheme, the host and the port of a URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme)


@contextlib.contextmanager
def named_by(url: str) -> Iterator[None]:
    """Send requests of a with-block where the server of ``url`` says, and no nearer than it is."""
    token = _namer.set(url)
    try:
        yield
    finally:
        _namer.reset(token)


def check_named(namer: str, url: str) -> None:
    """Refuse a URL whose host is too near by its name alone. Raises RedirectError."""
    near = nearness.of_name(urlsplit(url).hostname or "")
    if near > _nearness_of(namer):
        raise RedirectError(f"{server_of(namer)} sends us on to {_WORDS[near]}")


class AddressAdapter(HTTPAdapter):
    """Sends requests, none nearer than it may go."""

    def init_poolmanager(self, *words: Any, **more: Any) -> None:
        """Look at the peers of direct connections; a proxy looks up names for itself."""
        super().init_poolmanager(*words, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send; remember how near the server is. Raises RedirectError."""
        url = request.url or ""
        namer = getattr(request, "namer", _namer.get())
        if namer:
            check_named(namer, url)
            limit = _nearness_of(namer)
        else:  # by the user: anywhere; but one that answered from afar is not this machine later
            limit = max(PRIVATE, _nearness.get(origin(url), HERE))
        tokens = _limit.set(limit), _peer_nearness.set(None)
        try:
            answer = super().send(request, stream, timeout, verify, cert, proxies)
            _nearness.setdefault(origin(url), _server_nearness(url, proxies))
            return answer
        except _TooNearError as error:
            where = str(error)
        finally:
            _limit.reset(tokens[0])
            _peer_nearness.reset(tokens[1])
        # Not in the clause above: answers.py tells an error's root cause.
        who = server_of(namer or url)
        raise RedirectError(f"{who} sends us on to {where}", request=request)


def _server_nearness(url: str, proxies: Mapping[str, str] | None) -> int:
    peer = None if select_proxy(url, dict(proxies or {})) else _peer_nearness.get()
    return nearness.of_name(urlsplit(url).hostname or "") if peer is None else peer


class _Connection(HTTPConnection):
    """Looks at its peer before anything is sent, also when it is used again."""

    def _new_conn(self) -> socket.socket:
        new = super()._new_conn()
        _check(new)
        return new

    def request(self, *words: Any, **more: Any) -> None:
        if self.sock is not None:
            _check(self.sock)
        super().request(*words, **more)


class _SecureConnection(_Connection, HTTPSConnection):
    """Likewise, before TLS begins."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _check(connected: socket.socket) -> None:
    """Note how near a peer is. Raises _TooNearError, HostError."""
    # A link-local one has its interface behind it, fe80::1%eth0: RFC 4007 section 11.
    address = ipaddress.ip_address(str(connected.getpeername()[0]).partition("%")[0])
    near = nearness.of_address(address)
    _peer_nearness.set(near)
    if near > _limit.get() and not any(address in each for each in _local_networks()):
        connected.close()
        raise _TooNearError(f"{_WORDS[near]}, {address}")


def _local_networks() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the networks that anybody may send us to. Raises HostError."""
    try:
        words = os.environ.get(LOCAL, "").replace(",", " ").split()
        return [ipaddress.ip_network(word, strict=False) for word in words]
    except ValueError as error:
        raise HostError(
            f"{LOCAL} names no networks", why=str(error), remedy="Write such as 10.1.0.0/16."
        ) from error


def _nearness_of(url: str) -> int:
    """Return how near a server was when it answered, else how near its name is."""
    return _nearness.get(origin(url), nearness.of_name(urlsplit(url).hostname or ""))
