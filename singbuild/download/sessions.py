"""HTTP sessions that send credentials to the server in the URL and to no other.

An origin is scheme, host and port (RFC 6454). A credential stays with its origin; what was
asked for by https is never fetched by http, and no server sends us nearer to this machine than it
is itself (``addresses.py``).
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url

from singbuild.download.addresses import AddressAdapter, RedirectError, check_named, origin
from singbuild.download.errors import public_url, server_of


class Session(requests.Session):
    """A session as requests has it, with other rules for credentials and redirects.

    insecure: redirects may lead from https to http.
    """

    def __init__(self, *, insecure: bool = False) -> None:
        super().__init__()
        self.insecure = insecure
        # Without any, requests would send what ~/.netrc has for the host, or for every host.
        self.auth = _InUrl()
        for scheme in ("http://", "https://"):
            self.mount(scheme, AddressAdapter())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where an answer sends us, None for nowhere. Raises RedirectError."""
        target = super().get_redirect_target(resp)
        if target is not None:
            sender = server_of(resp.url)
            try:
                after = urlsplit(urljoin(resp.url, target))
                origin(after.geturl())
            except ValueError:
                where = public_url(target)
                raise RedirectError(f"{sender} sends us on to {where!r}") from None
            is_secure = urlsplit(resp.url).scheme == "https"
            if is_secure and after.scheme == "http" and not self.insecure:
                where = server_of(after.geturl())
                raise RedirectError(f"{sender} sends us on to {where} by plain http")
            check_named(resp.url, after.geturl())
            # requests reads it whole, be it endless, to use the connection again.
            resp._content = b""
            resp.close()
        return target

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Drop credentials when a redirect leads to another origin (RFC 9110 section 15.4).

        The URL that redirects is noted for the adapter.
        """
        prepared_request.namer = response.url  # type: ignore[attr-defined]
        if origin(response.request.url or "") != origin(prepared_request.url or ""):
            prepared_request.headers.pop("Authorization", None)


class _InUrl(AuthBase):
    """Sends the name and the password that stand in a URL itself."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        name, password = get_auth_from_url(request.url or "")
        return HTTPBasicAuth(name, password)(request) if name or password else request
