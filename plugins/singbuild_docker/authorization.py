"""Sends credentials to a registry, when it asks for them and to no other server.

Sources: distribution specification, "Token Authentication Specification" and "OAuth2 Token
Authentication"; RFC 9110 section 11.6.1.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import threading
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from requests.utils import rewind_body

from singbuild import Reporter, SourceError
from singbuild.download import (
    TIMEOUT,
    RedirectError,
    check_named,
    is_loopback,
    named_by,
    origin,
)
from singbuild_docker import credentials
from singbuild_docker.credentials import Credentials
from singbuild_docker.mirrors import Place

LARGEST = 1 << 20  # bytes of an answer; tokens have a few thousand
_PARAMETER = re.compile(r'(?<![a-zA-Z_])([a-zA-Z_]++)="([^"]*)"')  # in linear time
PULL, PUSH = "pull", "pull,push"
_NO_RIGHT = 'error="insufficient_scope"'  # RFC 6750 section 3.1


class Authorization(AuthBase):
    """Answers the challenges of one registry for one image; shared by all threads.

    url: the registry's; session: for requests to the token server; actions: PULL or PUSH, "" only
    to log in; credentials: who we are, instead of what the user's settings say.
    """

    def __init__(
        self,
        place: Place,
        url: str,
        session: requests.Session,
        report: Reporter,
        actions: str = PULL,
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials
        self.place, self.image, self.session, self.actions = place, place.image, session, actions
        self.report = report
        self._url, self._origin = url, origin(url)
        self._lock = threading.Lock()
        self._header = ""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add what the registry asked for before; get ready for it to ask again."""
        if self._header:
            request.headers["Authorization"] = self._header
        request.hooks.setdefault("response", []).append(self._on_response)
        return request

    def _on_response(self, answer: requests.Response, **how: Any) -> requests.Response:
        """Repeat a request that the registry refused, once, with the authorization it asks for."""
        if origin(answer.request.url or "") != self._origin:
            return answer  # a redirect to another origin, which must not get our credentials
        if answer.status_code == requests.codes.unauthorized:
            again = answer.request.copy()
            if isinstance(getattr(again, "_body_position", None), int):
                rewind_body(again)  # the first request has read the file to its end
            again.headers["Authorization"] = self._renew_header(
                str(answer.request.headers.get("Authorization", "")), answer
            )
            answer.close()
            answer = answer.connection.send(again, **how)
        if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
            raise self._denied(answer)
        return answer

    def _renew_header(self, used: str, answer: requests.Response) -> str:
        """Return a new header in place of the refused one; one thread gets it, all use it."""
        with self._lock:
            if self._header in ("", used):
                self._header = self._make_header(answer)
            return self._header

    def _make_header(self, answer: requests.Response) -> str:
        challenge = answer.headers.get("WWW-Authenticate", "")
        credentials = self._account
        if re.match("bearer ", challenge, re.IGNORECASE):
            return f"Bearer {self._token(dict(_PARAMETER.findall(challenge)), credentials)}"
        if re.match("basic", challenge, re.IGNORECASE) and credentials and credentials.username:
            return _basic(credentials)
        raise self._denied(answer)

    def _token(self, challenge: dict[str, str], credentials: Credentials | None) -> str:
        realm = challenge.get("realm", "")
        self._check_realm(realm)
        parameters = {"service": challenge.get("service", "")}
        if self.actions:
            parameters["scope"] = f"repository:{self.image.repository}:{self.actions}"
        try:
            with named_by(self._url), self._ask(realm, parameters, credentials) as answer:
                if not answer.ok:
                    raise self._denied(answer)
                token_answer = _json(answer)
                # Either name, or both: distribution specification, "Token Response Fields".
                token = token_answer.get("token") or token_answer.get("access_token")
        except RedirectError as error:
            raise self._strange(realm, f"{error}.", "Find out who runs it.") from error
        except (requests.RequestException, ValueError, AttributeError, RecursionError) as error:
            raise SourceError(
                f"{self.image.registry}: its token server {realm} gives no token",
                why=str(error),
                remedy="Try again later.",
            ) from error
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise SourceError(f"{self.image.registry}: its token server {realm} gives no token")
        return token

    def _ask(
        self, realm: str, parameters: dict[str, str], credentials: Credentials | None
    ) -> requests.Response:
        if credentials and credentials.identity:
            form = {"grant_type": "refresh_token", "refresh_token": credentials.identity}
            form |= {"client_id": "singbuild"} | parameters
            # A redirect would take the refresh token to another place.
            return self.session.post(
                realm, data=form, timeout=TIMEOUT, allow_redirects=False, stream=True
            )
        who = {"Authorization": _basic(credentials)} if credentials else {}
        return self.session.get(realm, params=parameters, headers=who, timeout=TIMEOUT, stream=True)

    def _check_realm(self, realm: str) -> None:
        """Refuse to send a password over an open line, or anything nearer than the registry."""
        try:
            scheme, host, _ = origin(realm)
            check_named(self._url, realm)
        except ValueError:
            scheme = host = realm = ""
        except RedirectError as error:
            raise self._strange(realm, f"{error}.", "Find out who runs it.") from error
        plain = self.place.insecure or is_loopback(host)
        if scheme != "https" and not (scheme == "http" and plain):
            raise self._strange(
                realm,
                "Tokens are asked for by https only.",
                "Write 'Insecure: yes' in the header if you trust this network.",
            )

    def _strange(self, realm: str, why: str, remedy: str) -> SourceError:
        what = f"{self.image.registry}: names {realm!r} as its token server"
        return SourceError(what, why=why, remedy=remedy)

    @functools.cached_property
    def _account(self) -> Credentials | None:
        if self._credentials:
            return self._credentials
        # What the environment has is for the registry that the user names, not for a mirror of it.
        return credentials.find(self.image, self.report, environment=not self.place.is_mirror)

    @property
    def _refusal(self) -> str:
        return "does not take it from us" if self.actions == PUSH else "does not let us have it"

    def _denied(self, answer: requests.Response) -> SourceError:
        account = self._account
        who = (
            (account.username or "the stored token") if account else "nobody: no credentials found"
        )
        remedy = (
            "Check the name. If it is right, log in (singbuild login), or set "
            "SINGBUILD_DOCKER_USERNAME and SINGBUILD_DOCKER_PASSWORD."
        )
        if account and _NO_RIGHT in answer.headers.get("WWW-Authenticate", ""):
            who += f", who has no right to {self.actions.rpartition(',')[2]} it"
            remedy = "Check the name. If it is right, ask its owner for that right."
        server = urlsplit(answer.url).netloc
        return SourceError(
            f"{self.image}: the registry {self._refusal}",
            why=f"{server} answers {answer.status_code} {answer.reason}{_message(answer)}; "
            f"asked as {who}",
            remedy=remedy,
        )


def _basic(account: Credentials) -> str:
    pair = f"{account.username}:{account.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def _json(answer: requests.Response) -> Any:
    content = b""
    for piece in answer.iter_content(1 << 16):
        content += piece
        if len(content) > LARGEST:
            raise ValueError(f"it sends over {LARGEST:,} bytes")
    return json.loads(content)


def _message(answer: requests.Response) -> str:
    """Return a registry's own words: distribution specification, "Error Codes"."""
    try:
        message = str(_json(answer)["errors"][0]["message"])
    except (requests.RequestException, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" ({message[:200]})" if message.isprintable() else ""
