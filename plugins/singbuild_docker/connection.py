"""HTTP sessions with one registry: which certificates count, when plain http will do.

Private authorities come from the host, and from Docker's ``certs.d/HOST`` directories
(containers-certs.d(5)); those count for the hosts that the registry names, too. Our own
certificate is for the registry alone. Proxies come from the environment, but never for this
machine itself.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from singbuild import SourceError, __version__
from singbuild.download import TIMEOUT, HostAdapter, Session, host_context
from singbuild_docker.reference import is_loopback
from singbuild_docker.settings import matching_files, readable


class Connector:
    """Opens sessions with a registry and the hosts that it sends us to.

    insecure: take any certificate of theirs, and redirects to plain http.
    """

    def __init__(self, server: str, *, insecure: bool) -> None:
        self.server = server
        self.insecure = insecure

    def open(self) -> Session:
        """Return a new session; its first request by https reads certs.d."""
        session = Session(insecure=self.insecure)
        session.headers["User-Agent"] = f"singbuild/{__version__}"
        session.mount("http://", _Adapter(None, insecure=self.insecure))
        # requests takes the adapter with the longest prefix: our certificate is for this server.
        for whose, settings in (
            ("https://", lambda: self._context),
            (f"https://{self.server}/", lambda: self._own_context),
        ):
            session.mount(whose, _Adapter(settings, insecure=self.insecure))
        return session

    def choose_scheme(self) -> str:
        """Return "https", or "http" for a server that speaks that and is allowed to.

        Plain http is tried first: what speaks TLS answers that at once with an error or a
        redirect, while what speaks http may wait for ever for the end of a TLS greeting. Nothing
        secret is sent.
        """
        if not (self.insecure or is_loopback(self.server)):
            return "https"
        with self.open() as session:
            try:
                url = f"http://{self.server}/v2/"
                with session.get(
                    url, timeout=TIMEOUT, allow_redirects=False, stream=True
                ) as answer:
                    refused = answer.status_code == requests.codes.bad_request
                    plain = not refused and not answer.is_redirect
            except requests.RequestException:
                plain = False
        return "http" if plain else "https"

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        """TLS settings for hosts that the registry names, made once for all sessions."""
        return _context(self.server, insecure=self.insecure, with_ours=False)

    @functools.cached_property
    def _own_context(self) -> ssl.SSLContext:
        """TLS settings for the registry itself."""
        if not any(matching_files(place / self.server, "*.cert") for place in _places()):
            return self._context
        return _context(self.server, insecure=self.insecure, with_ours=True)


class _Adapter(HostAdapter):
    """Speaks TLS as a registry's certs.d says, and reaches this machine without a proxy."""

    def __init__(self, settings: Callable[[], ssl.SSLContext] | None, *, insecure: bool) -> None:
        self._insecure = insecure
        super().__init__(settings)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send; requests lets REQUESTS_CA_BUNDLE undo a session's ``verify``, so it is set here."""
        if self._insecure:
            verify = False
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # A proxy would look for "localhost" on its own machine.
        through = {} if is_loopback(urlsplit(request.url or "").netloc) else proxies
        return super().send(request, stream, timeout, verify, cert, through)


def _context(server: str, *, insecure: bool, with_ours: bool) -> ssl.SSLContext:
    """Return TLS settings: the host's authorities, and what certs.d has for a server."""
    context = host_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for directory in (place / server for place in _places()):
        try:
            _load(context, directory, with_ours=with_ours)
        except OSError as error:
            raise SourceError(
                f"{directory}: holds a certificate that cannot be used",
                why=str(error),
                remedy="It should have *.crt (authorities), and *.cert with *.key (ours), in PEM.",
            ) from error
    return context


def _load(context: ssl.SSLContext, directory: Path, *, with_ours: bool) -> None:
    for authority in matching_files(directory, "*.crt"):
        context.load_verify_locations(authority)
    for own in matching_files(directory, "*.cert") if with_ours else ():
        key = own.with_suffix(".key")
        if readable([key]) or not key.exists():  # another user's key is not ours to use
            context.load_cert_chain(own, key)


def _places() -> Iterator[Path]:
    home = Path.home()
    yield from (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
    yield from (home / ".docker/certs.d", home / ".config/containers/certs.d")
