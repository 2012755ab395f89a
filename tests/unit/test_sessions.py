"""Where a credential goes, and where a redirect may lead: real servers on loopback, one by TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from singbuild import SourceError
from singbuild.download import RedirectError, Session, fetch, is_loopback, origin
from singbuild.testing.engine import Recorder
from tests.bench.docker_tokens import authority, signed


class Server(ThreadingHTTPServer):
    """Answers with "body", or sends on to ``location``; keeps the headers of all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.location = ""
        self.is_endless, self.sent = False, 0
        self.headers: list[dict[str, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        self.send_response(302 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        if self.server.is_endless:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(1 << 62 if self.server.is_endless else 4))
        self.end_headers()
        self.wfile.write(b"body")
        with suppress(OSError):
            while self.server.is_endless and self.server.sent < 64 << 20:
                self.server.sent += self.wfile.write(bytes(1 << 16))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An authority, a certificate of it for 127.0.0.1, its key."""
    where = tmp_path_factory.mktemp("certificates")
    ca = authority(where)
    own = signed(where, ca)
    return ca.cert, own.cert, own.key


@pytest.fixture
def servers(
    certificates: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, Server]]:
    """One by TLS, one plain, both with an entry in ~/.netrc."""
    ca, cert, key = certificates
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password netrc-secret\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with ExitStack() as stack:
        secure, plain = (stack.enter_context(Server()) for _ in range(2))
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        for server in (secure, plain):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.shutdown)
        yield secure, plain


def test_https_does_not_become_http(servers: tuple[Server, Server], tmp_path: Path) -> None:
    secure, plain = servers
    url = f"https://127.0.0.1:{secure.port}/file"
    secure.location = f"http://127.0.0.1:{plain.port}/file"
    with pytest.raises(SourceError) as caught:
        fetch(url, tmp_path / "store", report=Recorder())
    assert "by plain http" in caught.value.why
    assert plain.headers == []
    with Session(insecure=True) as session:
        assert session.get(url, timeout=60).content == b"body"


def test_a_credential_stays_with_scheme_host_and_port(servers: tuple[Server, Server]) -> None:
    secure, plain = servers
    plain.location = f"https://127.0.0.1:{secure.port}/file"
    with Session() as session:
        session.get(f"http://ada:own-secret@127.0.0.1:{plain.port}/file", timeout=60)
    assert "authorization" in plain.headers[0]
    assert "authorization" not in secure.headers[0]


def test_nothing_of_netrc_is_sent(servers: tuple[Server, Server], tmp_path: Path) -> None:
    secure, plain = servers
    plain.location = f"https://127.0.0.1:{secure.port}/file"
    fetch(f"http://127.0.0.1:{plain.port}/file", tmp_path / "store", report=Recorder())
    assert len(plain.headers + secure.headers) == 2
    assert not any("authorization" in each for each in plain.headers + secure.headers)


def test_nobody_elsewhere_sends_us_to_this_machine(servers: tuple[Server, Server]) -> None:
    _, plain = servers
    with Session() as session:
        answer = session.get(f"http://127.0.0.1:{plain.port}/", timeout=60)
        answer.status_code, answer.headers["Location"] = 302, "http://127.1:9/"
        assert session.get_redirect_target(answer) == "http://127.1:9/"
        answer.url = "http://elsewhere.example/"
        with pytest.raises(RedirectError, match="this machine itself"):
            session.get_redirect_target(answer)


def test_what_is_sent_with_a_redirect_is_not_read(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    secure, plain = servers
    plain.location, plain.is_endless = f"https://127.0.0.1:{secure.port}/file", True
    answer = fetch(f"http://127.0.0.1:{plain.port}/file", tmp_path / "store", report=Recorder())
    assert answer.size == 4
    assert plain.sent < 64 << 20


@pytest.mark.parametrize("target", ["http://[", "http://a:port/", "//[", "http://a:99999999/"])
def test_a_redirect_to_no_place_at_all_is_refused(
    servers: tuple[Server, Server], tmp_path: Path, target: str
) -> None:
    _, plain = servers
    plain.location = target
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetch(f"http://127.0.0.1:{plain.port}/", tmp_path / "store", report=Recorder())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "127.9.9.9", "0x7f000001", "2130706433", "0.0.0.0", "[::1]", "::1", "::",
     "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "a.localhost"],
)  # fmt: skip
def test_this_machine_has_many_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "example.org", "localhost.example", "10.0.0.1", "128.0.0.1"])
def test_others_have_other_names(host: str) -> None:
    assert not is_loopback(host)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("https://Ada:x@Host/a") == origin("https://host:443/b")
    assert origin("http://host/") != origin("https://host/")
    assert origin("http://host:80/") != origin("http://host:81/")
