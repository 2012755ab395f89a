"""Downloads that strangers name: digests that are none, passwords, servers in private networks."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import requests

from singbuild.download import RedirectError, Remote, Session, addresses, fetch, fetch_all
from singbuild.download.errors import public_url
from singbuild.download.store import keep_copy
from singbuild.errors import SourceError
from singbuild.testing.engine import Recorder
from tests.unit.test_download import BODY, SHA256, Handler, Server, _hurried, names, report, server
from tests.unit.test_downloads_at_once import ranges, slow_lines

__all__ = ["_hurried", "report", "server", "slow_lines"]


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://ada:s3cret@h.example/x", "https://h.example/x"),
        ("https://ada:s3@cr@et@h.example:8/x@y", "https://h.example:8/x@y"),
        ("HTTP://token@h.example", "HTTP://h.example"),
        ("https://h.example/x?at=y@z", "https://h.example/x?at=y@z"),
        ("ssh://git@h.example/lab/tools", "ssh://git@h.example/lab/tools"),
        ("git@h.example:lab/tools", "git@h.example:lab/tools"),
        ("fatal: no 'https://a:b@h.example/x'", "fatal: no 'https://h.example/x'"),
    ],
)
def test_a_password_is_not_shown(url: str, public: str) -> None:
    assert public_url(url) == public


def test_a_server_that_sends_us_on_is_named_without_the_password(server: Server) -> None:
    with Session() as session:
        answer = session.get(server.url, timeout=60)
        answer.status_code, answer.headers["Location"] = 302, "http://127.1:9/"
        answer.url = "http://ada:s3cr@t@h.example/"
        with pytest.raises(RedirectError) as caught:
            session.get_redirect_target(answer)
    assert f"{caught.value}" == "h.example sends us on to this machine itself"


@pytest.mark.parametrize("sha256", ["../victim", "0" * 63, "g" * 64])
def test_a_digest_that_is_none_names_no_file(
    server: Server, tmp_path: Path, report: Recorder, sha256: str
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "victim").write_text("kept")
    with pytest.raises(SourceError, match="is no SHA-256"):
        fetch(server.url, tmp_path / "store", report=report, sha256=sha256)
    with pytest.raises(SourceError, match="is no SHA-256"):
        Remote(server.url, sha256)
    assert (tmp_path / "victim").read_text() == "kept"
    assert server.requests == []


@pytest.mark.usefixtures("slow_lines")
def test_all_connections_know_who_has_named_the_server(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    """One from afar may send us to no private network, by no connection."""
    server.behaviours = [ranges]
    namers: list[str] = []

    class Noting(Session):
        """A session that notes who has named what it is asked for."""

        def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
            namers.append(addresses._namer.get())
            return super().send(request, **more)

    with addresses.named_by(server.url), Noting() as session:
        fetch(server.url, tmp_path, report=report, sha256=SHA256, session=session)
    assert len(namers) > 5
    assert {*namers} == {server.url}


def test_many_files_know_who_has_named_the_server(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    with (
        addresses.named_by("https://h.example/"),
        pytest.raises(SourceError, match=r"h\.example sends us on to this machine itself"),
    ):
        fetch_all([Remote(server.url, SHA256, len(BODY))], tmp_path, report=report, label="x")


def test_a_copy_that_another_process_has_taken_over_gets_no_name(
    tmp_path: Path, report: Recorder
) -> None:
    store, sha256 = tmp_path / "store", hashlib.sha256(b"data").hexdigest()

    class Slow(io.BytesIO):
        """A file during whose reading this host was asleep."""

        def read(self, size: int | None = -1, /) -> bytes:
            part = store / f"{sha256}.part"
            part.unlink(missing_ok=True)
            part.write_text("another's")
            return super().read(size)

    with pytest.raises(SourceError, match="cannot be fetched"):
        keep_copy(Remote("file", sha256), Slow(b"data"), store, report)
    assert (store / f"{sha256}.part").read_text() == "another's"
    assert names(store) == {f"{sha256}.part"}


def test_a_length_that_is_no_number_for_a_file_is_none(
    server: Server, tmp_path: Path, report: Recorder
) -> None:
    def boast(handler: Handler) -> None:
        handler.close_connection = True
        handler.answer(200, BODY, Content_Length="9" * 5000)

    server.behaviours = [boast]
    assert fetch(server.url, tmp_path, report=report).path.read_bytes() == BODY
