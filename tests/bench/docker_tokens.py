"""A token server on loopback by TLS, whose signatures a genuine registry verifies by itself.

Source: distribution, "Token Authentication Specification", "Token Authentication Implementation"
and "OAuth2 Token Authentication"; RFC 7515 section 4.1.6 (x5c).
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SERVICE, ISSUER = "the registry", "tests"
LEEWAY = 60  # seconds that the registry takes a token after its end


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in files."""

    cert: Path
    key: Path

    @property
    def settings(self) -> str:
        """What a registry's configuration says of it."""
        return f"  tls: {{certificate: {self.cert}, key: {self.key}}}\n"


def authority(where: Path) -> Certificate:
    """Make a private authority."""
    return _make_certificate(where / "authority", "-addext", "keyUsage=keyCertSign,cRLSign")


def signed(where: Path, by: Certificate) -> Certificate:
    """Make a certificate of 127.0.0.1 that an authority signs."""
    more = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE")
    return _make_certificate(where / "server", "-CA", by.cert, "-CAkey", by.key, *more)


def _make_certificate(stem: Path, *more: str | Path) -> Certificate:
    certificate = Certificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *more]
    argv += ["-subj", f"/CN={stem.name}", "-out", certificate.cert, "-keyout", certificate.key]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate


class TokenServer(ThreadingHTTPServer):
    """Knows ada, whose password is secret, and bob, and gives tokens for what they may pull.

    rights: users by repository, "" for anybody; lifetimes: seconds of the next tokens, the last
    for ever; requests: (method, headers, form) of each; issued: the tokens; certificates: those of
    clients that have one of the signer's.
    """

    daemon_threads = True
    users = ("Basic " + base64.b64encode(b"ada:secret").decode(), "Basic Ym9iOmJvYg==")
    names = ("ada", "bob")
    refresh = "ada's refresh token"

    def __init__(self, tls: Certificate, signer: Certificate) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
        context.load_verify_locations(signer.cert)
        context.verify_mode = ssl.CERT_OPTIONAL
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.signer = signer
        self.realm = f"https://127.0.0.1:{self.server_address[1]}/token"
        self.begin({})

    def begin(self, rights: dict[str, tuple[str, ...]]) -> None:
        """Forget the requests and tokens so far, and give rights anew."""
        self.rights, self.lifetimes = rights, [300]
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.issued: list[str] = []
        self.certificates: list[object] = []

    @property
    def settings(self) -> str:
        """What a registry's configuration says of this server."""
        return (
            f"auth:\n  token: {{realm: '{self.realm}', service: {SERVICE}, issuer: {ISSUER}, "
            f"rootcertbundle: {self.signer.cert}}}\n"
        )

    def token(self, user: str, scope: str) -> str:
        """Return a token for what a user may do of what is asked for."""
        kind, repository, actions = (scope or "::").split(":")  # no scope: to log in
        may = user in self.rights.get(repository, ()) or "" in self.rights.get(repository, ())
        access = [{"type": kind, "name": repository, "actions": actions.split(",")}]
        now = int(time.time())
        lifetime = self.lifetimes.pop(0) if len(self.lifetimes) > 1 else self.lifetimes[0]
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "jti": str(len(self.issued)),
        }
        claims |= {"iat": now, "nbf": now - 1, "exp": now + lifetime - LEEWAY} | {
            "access": access if may else []
        }
        chain = "".join(self.signer.cert.read_text().splitlines()[1:-1])
        text = ".".join(
            _encoded(json.dumps(part).encode())
            for part in ({"typ": "JWT", "alg": "RS256", "x5c": [chain]}, claims)
        )
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self.signer.key)]
        signature = subprocess.run(argv, input=text.encode(), capture_output=True, check=True)
        self.issued.append(f"{text}.{_encoded(signature.stdout)}")
        return self.issued[-1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that refuse the certificate are part of the tests."""


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        fields = _form(urlsplit(self.path).query)
        credentials = self.headers.get("Authorization", "")
        self._note(fields)
        if credentials and credentials not in self.server.users:
            words = {"code": "UNAUTHORIZED", "message": "incorrect username or password"}
            self._answer(401, {"errors": [words]})
        else:
            user = self.server.names[self.server.users.index(credentials)] if credentials else ""
            self._give(user, fields)

    def do_POST(self) -> None:
        fields = _form(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._note(fields)
        if (
            fields["grant_type"] == "refresh_token"
            and fields["refresh_token"] == self.server.refresh
        ):
            self._give("ada", fields)
        else:
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "log in again"}]})

    def log_message(self, *args: object) -> None:
        pass

    def _note(self, fields: dict[str, str]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if own := self.connection.getpeercert():
            self.server.certificates.append(own)
        self.server.requests.append((self.command, headers, fields))

    def _give(self, user: str, fields: dict[str, str]) -> None:
        assert fields["service"] == SERVICE
        token = self.server.token(user, fields.get("scope", ""))
        self._answer(200, {"token": token, "access_token": token, "expires_in": 60})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _form(text: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(text).items()}


@contextmanager
def token_server(tls: Certificate, signer: Certificate) -> Iterator[TokenServer]:
    with TokenServer(tls, signer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
