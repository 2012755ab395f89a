"""Downloads against a real HTTP server on loopback that misbehaves as told."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from singbuild import SourceError
from singbuild.download import NotFoundError, fetch, limits, retry
from singbuild.testing.engine import Recorder
from tests.bench.host import PATIENCE

BODY = os.urandom(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers requests by a list of behaviours, the last one over and over."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours: list[Callable[[Handler], None]] = [whole]
        self.requests: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/dir/file.bin"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append({k.lower(): v for k, v in self.headers.items()})
        behaviours = self.server.behaviours
        (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(self)

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def whole(handler: Handler) -> None:
    handler.answer(200, BODY, ETag='"one"')


def status(code: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(code, b"sorry", **headers)


def breaks_after(count: int, etag: str = '"one"') -> Callable[[Handler], None]:
    def behave(handler: Handler) -> None:
        handler.answer(200, BODY[:count], Content_Length=str(len(BODY)), ETag=etag)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


def the_rest(handler: Handler) -> None:
    begin = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    place = f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}"
    handler.answer(206, BODY[begin:], Content_Range=place, ETag='"one"')


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def report() -> Recorder:
    return Recorder()


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACK_OFF", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def names(store: Path) -> set[str]:
    return {path.name for path in store.iterdir()}


def test_a_file_is_stored_by_its_digest(server: Server, tmp_path: Path, report: Recorder) -> None:
    answer = fetch(server.url, tmp_path, report=report, sha256=SHA256.upper())
    assert answer.path == tmp_path / SHA256
    assert answer.path.read_bytes() == BODY
    assert (answer.sha256, answer.size) == (SHA256, len(BODY))
    assert report.steps[-1] == ("file.bin", len(BODY), len(BODY))
    assert names(tmp_path) == {SHA256}
    assert server.requests[0]["user-agent"].startswith("singbuild/")


def test_a_known_digest_is_fetched_once(server: Server, tmp_path: Path, report: Recorder) -> None:
    for _ in range(2):
        fetch(server.url, tmp_path, report=report, sha256=SHA256)
    assert len(server.requests) == 1


def test_a_damaged_stored_file_is_fetched_again(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    (tmp_path / SHA256).write_bytes(BODY[:-1])
    assert fetch(server.url, tmp_path, report=report, sha256=SHA256).path.read_bytes() == BODY
    assert "damaged" in report.warnings[0]


def test_without_a_digest_the_server_is_asked_whether_it_changed(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [whole, lambda handler: handler.answer(304), whole]
    first = fetch(server.url, tmp_path, report=report)
    again = fetch(server.url, tmp_path, report=report)
    assert first == again
    assert server.requests[1]["if-none-match"] == '"one"'
    first.path.unlink()  # nothing to compare with: the whole file again
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
    assert "if-none-match" not in server.requests[2]


def test_a_changed_file_replaces_what_a_url_led_to(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [whole, lambda handler: handler.answer(200, b"new", ETag='"two"')]
    fetch(server.url, tmp_path, report=report)
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == b"new"
    fetch(server.url, tmp_path, report=report)
    assert server.requests[2]["if-none-match"] == '"two"'


def test_a_wrong_digest_is_refused_and_nothing_stays(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    with pytest.raises(SourceError, match="wrong SHA-256") as caught:
        fetch(server.url, tmp_path, report=report, sha256="0" * 64)
    assert SHA256 in caught.value.why
    assert "0" * 64 in caught.value.why
    assert server.url in caught.value.what
    assert names(tmp_path) == set()


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [breaks_after(200_000), the_rest]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
    assert server.requests[1]["if-range"] == '"one"'
    assert 0 < int(server.requests[1]["range"][6:-1]) <= 200_000
    assert "broke" in report.lines[0]


def test_a_file_that_changes_in_between_is_fetched_anew(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [breaks_after(200_000, etag='"old"'), the_rest, whole]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
    assert "range" not in server.requests[2]


def test_a_server_that_cannot_resume_sends_all_again(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [breaks_after(200_000), whole]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY


def test_what_a_killed_build_left_is_taken_up(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(BODY[:100_000])
    server.behaviours = [the_rest]
    assert fetch(server.url, tmp_path, report=report, sha256=SHA256).path.read_bytes() == BODY
    assert server.requests[0]["range"] == "bytes=100000-"
    assert names(tmp_path) == {SHA256}


def test_a_part_that_is_longer_than_the_file_is_dropped(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(BODY + b"x")
    server.behaviours = [status(416), whole]
    assert fetch(server.url, tmp_path, report=report, sha256=SHA256).path.read_bytes() == BODY


def test_a_length_that_is_never_reached_is_an_error(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [breaks_after(10)]
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        fetch(server.url, tmp_path, report=report)
    assert "broke" in caught.value.why
    assert len(server.requests) == 1 + limits.DEFAULT_RETRIES
    assert not any(name.endswith(SHA256) for name in names(tmp_path))


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_failure_is_tried_again(
    server: Server, tmp_path: Path, report: Recorder, code: int
) -> None:
    server.behaviours = [status(code), whole]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
    assert str(code) in report.lines[0]


def test_retry_after_is_honoured(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [status(429, Retry_After="1"), whole]
    began = time.monotonic()
    fetch(server.url, tmp_path, report=report)
    assert 1.0 <= time.monotonic() - began < 10 * PATIENCE


def test_retry_after_has_an_end(
    server: Server, tmp_path: Path, report: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.1)
    server.behaviours = [status(503, Retry_After="Fri, 31 Dec 2999 23:59:59 GMT"), whole]
    began = time.monotonic()
    fetch(server.url, tmp_path, report=report)
    assert time.monotonic() - began < 5 * PATIENCE


def test_a_server_that_stays_broken_is_given_up(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [status(500)]
    with pytest.raises(SourceError, match=r"cannot be fetched") as caught:
        fetch(server.url, tmp_path, report=report)
    assert "500" in caught.value.why
    assert caught.value.remedy
    assert len(server.requests) == 1 + limits.DEFAULT_RETRIES
    assert names(tmp_path) == set()


def test_a_missing_file_is_told_apart_and_not_asked_for_twice(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [status(404)]
    with pytest.raises(NotFoundError, match="does not exist"):
        fetch(server.url, tmp_path, report=report)
    assert len(server.requests) == 1


def test_no_access_is_not_asked_for_twice(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [status(403)]
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetch(server.url, tmp_path, report=report)
    assert len(server.requests) == 1


def test_redirects_are_followed(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [status(302, Location="/elsewhere"), whole]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
    assert len(server.requests) == 2


@pytest.mark.parametrize("target", ["/round", "file:///etc/passwd"])
def test_redirects_that_lead_nowhere_are_an_error(
    server: Server, tmp_path: Path, report: Recorder, target: str
) -> None:
    server.behaviours = [status(302, Location=target)]
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetch(server.url, tmp_path, report=report)
    assert names(tmp_path) == set()


def test_a_silent_server_times_out(
    server: Server, tmp_path: Path, report: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TIMEOUT", (5.0, 0.5))
    server.behaviours = [lambda _: time.sleep(1.5), whole]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
    assert "sent nothing" in report.lines[0]


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused(
    server: Server, tmp_path: Path, report: Recorder, announced: bool
) -> None:
    def endless(handler: Handler) -> None:
        handler.answer(200, BODY, Content_Length="" if not announced else str(len(BODY)))
        handler.close_connection = True

    server.behaviours = [endless]
    with pytest.raises(SourceError, match="larger than the 1,000 bytes"):
        fetch(server.url, tmp_path, report=report, size_limit=1000)
    assert names(tmp_path) == set()


def test_a_compressed_file_arrives_as_it_is(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    server.behaviours = [lambda handler: handler.answer(200, BODY, Content_Encoding="gzip")]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY


def test_a_refused_connection_says_so(tmp_path: Path, report: Recorder) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(SourceError, match=f"127.0.0.1:{port}") as caught:
            fetch(f"http://127.0.0.1:{port}/x", tmp_path, report=report)
    assert "refuses connections" in caught.value.why


def test_an_unknown_name_says_so(tmp_path: Path, report: Recorder) -> None:
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        fetch("http://no-such-host.invalid/x", tmp_path, report=report)
    assert caught.value.why == "the name no-such-host.invalid cannot be resolved"


def test_a_server_without_tls_says_so(server: Server, tmp_path: Path, report: Recorder) -> None:
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        fetch(server.url.replace("http:", "https:"), tmp_path, report=report)
    assert "no secure connection" in caught.value.why


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "gopher://x"])
def test_other_schemes_are_refused(tmp_path: Path, report: Recorder, url: str) -> None:
    with pytest.raises(SourceError, match="cannot be fetched by"):
        fetch(url, tmp_path, report=report)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://:x/"])
def test_a_malformed_url_is_an_error(tmp_path: Path, report: Recorder, url: str) -> None:
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        fetch(url, tmp_path, report=report)
    assert caught.value.remedy == "Correct the URL."


def test_a_password_in_a_url_is_not_shown(server: Server, tmp_path: Path, report: Recorder) -> None:
    server.behaviours = [status(404)]
    with pytest.raises(NotFoundError) as caught:
        fetch(server.url.replace("//", "//me:secret@"), tmp_path, report=report)
    assert "secret" not in str(caught.value)
    assert server.requests[0]["authorization"].startswith("Basic ")


def test_the_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, report: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.url.rsplit("/", 2)[0])
    answer = fetch("http://mirror.invalid/x", tmp_path, report=report)
    assert answer.path.read_bytes() == BODY
    assert server.requests[0]["host"] == "mirror.invalid"


def test_a_local_file_is_used_where_it_is(tmp_path: Path, report: Recorder) -> None:
    file = tmp_path / "with space"
    file.write_bytes(BODY)
    for url in (str(file), file.as_uri()):
        answer = fetch(url, tmp_path / "store", report=report)
        assert (answer.path, answer.sha256, answer.read()) == (file, SHA256, BODY)
    file.write_bytes(b"another")
    with pytest.raises(SourceError, match="was changed"):
        answer.read()
    with pytest.raises(NotFoundError, match="no such file"):
        fetch(str(file) + "x", tmp_path / "store", report=report)
    with pytest.raises(NotFoundError, match="not a file"):
        fetch(str(tmp_path), tmp_path / "store", report=report)
    assert not (tmp_path / "store").exists()


def test_a_local_file_of_known_digest_cannot_be_changed_behind_the_check(
    tmp_path: Path, report: Recorder
) -> None:
    file = tmp_path / "package"
    file.write_bytes(BODY)
    answer = fetch(str(file), tmp_path / "store", report=report, sha256=SHA256)
    file.write_bytes(b"another")
    assert answer.path.read_bytes() == BODY
    with pytest.raises(SourceError, match="wrong SHA-256"):
        fetch(str(file), tmp_path / "store", report=report, sha256="0" * 64)
    assert names(tmp_path / "store") == {SHA256}
