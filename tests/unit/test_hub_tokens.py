"""A token in a repository's URL fetches it, and stands neither in a site nor in a job's words."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from singbuild.errors import SourceError
from singbuild.hub.repository import Repository
from tests.unit.test_hub import BUSYBOX, Commit, cache, commit, git

__all__ = ["cache", "commit", "git"]
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
TOKEN = "t0k@en"


class Handler(SimpleHTTPRequestHandler):
    """Serves files to who has the token."""

    def do_GET(self) -> None:
        pair = base64.b64encode(f"ada:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {pair}":
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The host and the port of a server of this test's directory."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(Handler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_token_is_neither_in_the_site_nor_in_a_jobs_words(
    commit: Commit, git: Callable[..., str], tmp_path: Path, server: str
) -> None:
    newest = commit({"tool.def": BUSYBOX})
    git("update-server-info")
    url = f"http://ada:{TOKEN.replace('@', '%40')}@{server}/lab/tools/.git"
    words = ["hub", "build", "--submit", f"echo {{}} >> {tmp_path}/job", url, f"{tmp_path}/site"]
    done = subprocess.run(
        [sys.executable, "-m", "singbuild", *words],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "0 built, 0 as before, 1 failed" in done.stdout
    public = f"http://{server}/lab/tools/.git"
    assert public in (tmp_path / "job").read_text()
    assert public in (tmp_path / "site/lab/tools/collection.json").read_text()
    texts = [path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file()]
    texts += [(tmp_path / "job").read_bytes(), done.stdout.encode(), done.stderr.encode()]
    assert [text for text in texts if b"t0k" in text] == []
    assert Repository(public).commit(newest).id == newest  # a job need not fetch it


def test_an_error_does_not_show_the_token(tmp_path: Path, server: str) -> None:
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        Repository(f"http://bob:s3cr@t@{server}/nowhere").fetch()
    assert "s3cr" not in f"{caught.value}"
    assert server in f"{caught.value}"
