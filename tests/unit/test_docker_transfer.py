"""Registries that are slow, busy, broken or gone: tried again, resumed, or said at once."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from singbuild.download import limits
from tests.bench.docker_registry import (
    Faulty,
    breaks_after,
    faulty,
    proper,
    sends,
    stalls_after,
    status,
)
from tests.bench.docker_source import (
    FILES,
    IMAGE,
    built,
    fails,
    quick,
    server,
    source,
    store,
)
from tests.bench.host import PATIENCE

__all__ = ["quick", "server", "store"]


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_what_may_pass_is_tried_again(
    server: Faulty, store: Path, tmp_path: Path, code: int
) -> None:
    for part in ("/manifests/", IMAGE.layers[0], IMAGE.layers[1]):
        server.behaviours[part] = [status(code, Retry_After="0"), status(code), proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def test_retry_after_is_honoured(server: Faulty, store: Path, tmp_path: Path) -> None:
    server.behaviours["/manifests/"] = [status(429, Retry_After="1"), proper]
    began = time.monotonic()
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("part", ["/manifests/", IMAGE.config, IMAGE.layers[0]])
@pytest.mark.parametrize("code", [429, 500])
def test_what_does_not_pass_is_given_up(
    server: Faulty, store: Path, tmp_path: Path, part: str, code: int
) -> None:
    server.behaviours[part] = [status(code)]
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert f"the server answers {code} " in message
    assert "Try again later" in message
    assert len(server.requests_to(part)) == 1 + limits.DEFAULT_RETRIES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-5], "wrong SHA-256"),
        (lambda content: content + b"more", "is larger than the"),
        (lambda content: b"", "wrong SHA-256"),
    ],
)
@pytest.mark.parametrize("place", [IMAGE.config, IMAGE.layers[0], IMAGE.layers[1]])
def test_a_wrong_length_is_refused_and_nothing_of_it_stays(
    server: Faulty,
    store: Path,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    message: str,
    place: str,
) -> None:
    server.behaviours[place] = [sends(change(server.blobs[place]))]
    assert message in fails(source(store, f"{server.name}/x"), tmp_path)
    assert not [*store.glob(f"{place.removeprefix('sha256:')}*")]
    server.behaviours[place] = [proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def test_a_layer_that_breaks_off_is_resumed(server: Faulty, store: Path, tmp_path: Path) -> None:
    server.behaviours[IMAGE.layers[0]] = [breaks_after(100_000), proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    ranges = [headers.get("range", "") for headers in server.requests_to(IMAGE.layers[0])]
    assert ranges[0] == ""
    assert re.fullmatch(r"bytes=\d+-", ranges[-1])


def test_a_layer_that_never_comes_whole_ends_the_build_and_is_resumed_by_the_next(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours[IMAGE.layers[0]] = [breaks_after(200_000)]
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "the connection broke" in message
    server.behaviours[IMAGE.layers[0]] = [breaks_after(200_000), proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (401, "does not let us have it"),
        (403, "does not let us have it"),
        (404, "no such image|lost"),
    ],
)
def test_what_will_not_pass_is_said_at_once(
    server: Faulty, store: Path, tmp_path: Path, part: str, code: int, message: str
) -> None:
    body = b'{"errors": [{"code": "X", "message": "the reason"}]}'
    server.behaviours[part] = [status(code, body)]
    failure = fails(source(store, f"{server.name}/x"), tmp_path)
    assert re.search(message, failure)
    assert code == 404 or "the reason" in failure
    assert len(server.requests_to(part)) == 1


def test_a_layer_that_vanishes_after_the_manifest_is_named(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours[IMAGE.layers[1]] = [status(404)]
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert f"has lost {IMAGE.layers[1]}" in message


def test_nobody_there_is_said(store: Path, tmp_path: Path) -> None:
    with faulty() as absent:
        name = absent.name
    absent.server_close()
    assert "refuses connections" in fails(source(store, f"{name}/x"), tmp_path)


def test_this_machine_is_reached_without_a_proxy(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


FETCH = """
import sys
from pathlib import Path
from tests.bench import docker_source as t
t.built(t.source(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))
"""


def test_ctrl_c_ends_at_once_and_leaves_what_can_be_resumed(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours[IMAGE.layers[0]] = [stalls_after(200_000)]
    part = store / f"{IMAGE.layers[0].removeprefix('sha256:')}.part"
    argv = [sys.executable, "-c", FETCH, str(store), f"{server.name}/x", str(tmp_path)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    while not part.exists() or part.stat().st_size < 100_000:
        assert process.poll() is None
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert time.monotonic() - began < 5 * PATIENCE
    server.behaviours[IMAGE.layers[0]] = [proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    assert server.requests_to(IMAGE.layers[0])[-1]["range"].startswith("bytes=")
