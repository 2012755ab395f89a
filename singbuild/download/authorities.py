"""Which certificate authorities a download trusts: those that the host's own programs trust.

requests would bring certifi's, which know nothing of a site's private authorities. The host's
store counts, SSL_CERT_FILE and SSL_CERT_DIR in its place (openssl-env(7)), REQUESTS_CA_BUNDLE and
CURL_CA_BUNDLE before all, and certifi's only where the host has no store.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import certifi
import requests

from singbuild.download.addresses import AddressAdapter
from singbuild.download.sessions import Session

# Of Debian, Enterprise Linux, SUSE: a Python built elsewhere (uv, conda) does not look there.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
OF_REQUESTS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def session() -> Session:
    """Return a session that trusts the host's authorities."""
    opened = Session()
    opened.mount("https://", HostAdapter(host_context))
    return opened


def host_context() -> ssl.SSLContext:
    """Return TLS settings with the host's authorities."""
    if any(os.environ.get(name) for name in OF_REQUESTS):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # requests itself adds that bundle
    context = ssl.create_default_context()
    if not _has_store():
        context.load_verify_locations(next(filter(os.path.isfile, BUNDLES), certifi.where()))
    return context


def _has_store() -> bool:
    """Whether OpenSSL's default places, or those of the environment, have any certificate."""
    places = ssl.get_default_verify_paths()
    if places.cafile or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return True
    directory = Path(places.capath or "/nonexistent")
    return directory.is_dir() and any(
        re.fullmatch(r"[0-9a-f]{8}\.\d+", each.name) for each in directory.iterdir()
    )


class HostAdapter(AddressAdapter):
    """Speaks TLS by settings of ours.

    settings: makes them, at the first request by https: OpenSSL takes some 25 ms to read a host's
    authorities. None for requests' own.
    """

    def __init__(self, settings: Callable[[], ssl.SSLContext] | None) -> None:
        self._settings = settings
        super().__init__()

    @cached_property
    def _context(self) -> ssl.SSLContext | None:
        return self._settings() if self._settings else None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send; the settings are for direct connections here."""
        if self._settings and (request.url or "").startswith("https:"):
            self.poolmanager.connection_pool_kw["ssl_context"] = self._context
        return super().send(request, stream, timeout, verify, cert, proxies)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        """Hand the settings to the connections through a proxy."""
        return super().proxy_manager_for(proxy, ssl_context=self._context, **more)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave out certifi's authorities, which requests would add to any settings."""
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
        if verify is True and self._settings:
            conn.ca_certs = conn.ca_cert_dir = None
