"""Registries and token servers that lie, in any field of any answer, about any part of an image.

What is taken of them is what its digest says; nothing that they say leads to a bug.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from singbuild_docker import config as configuration
from singbuild_docker.layers import archives
from singbuild_docker.source import layers_of, locate, pinned

from singbuild.contract import Source
from singbuild.download import retry
from singbuild.testing.engine import Recorder
from tests.bench import campaign
from tests.bench.docker_images import (
    CONFIG,
    ContainerImage,
    archive,
    described,
    file,
    image,
    index,
    sha256,
)
from tests.bench.docker_registry import Faulty, Handler, proper
from tests.bench.docker_source import quick, server, source, store

__all__ = ["quick", "server", "store"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
SMALL = image(archive(file("a", b"A")), archive(file("b", b"B" * 5000)), config={"Env": ["A=1"]})
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**63,
        1e300,
        "",
        "x",
        "\0",
        "\x1b[0m",
        "\ud800",
        "sha256:",
        "x" * 5000,
    ),
    *([], {}, [[]], [None], {"": {}}, ["A=$(x)"], "9999-12-31T23:59:59Z", "sha256:" + "0" * 64),
)
STATUSES = (200, 200, 201, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 416, 429, 500, 503)
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Type": ("", "text/html", "application/vnd.oci.image.index.v1+json", "x" * 2000),
    "Content-Range": ("bytes 0-1/2", "bytes */0", "bytes 5-4/3", "x", "bytes -1-9/9"),
    "Content-Encoding": ("gzip", "br", "identity", "x"),
    "Docker-Content-Digest": ("sha256:" + "0" * 64, "", "x"),
    "ETag": ('"one"', "W/", "", "\xff"),
    "Last-Modified": ("Sat, 06 Sep 2025 10:00:00 GMT", "x"),
    "Location": (
        *(
            "",
            "/",
            "//",
            "/v2/",
            "x:y",
            "http://[",
            "http://127.0.0.1:1/",
            "https://127.0.0.1:1/",
            "\x00",
        ),
        *("file:///etc/passwd", "http://127.0.0.1:{port}/v2/x0/blobs/other", "http://a:port/"),
    ),
    "Retry-After": ("0", "-1", "99999999", "x", "Sat, 06 Sep 2025 10:00:00 GMT"),
    "WWW-Authenticate": (
        *("", "Basic", 'Basic realm="x"', "Bearer", 'Bearer realm=""', "Bearer " + "a" * 9000),
        'Bearer realm="http://127.0.0.1:{port}/token",service="s"',
        *('Bearer realm="https://127.0.0.1:1/token"', 'Bearer realm="file:///etc/passwd"'),
    ),
}


def odd(document: Any, chance: random.Random) -> Any:
    """A document with another value, key or order somewhere in it."""
    if isinstance(document, dict) and document and chance.randrange(6):
        key = chance.choice(sorted(document))
        if not chance.randrange(8):
            return {name: value for name, value in document.items() if name != key}
        return document | {key: odd(document[key], chance)}
    if isinstance(document, list) and document and chance.randrange(4):
        at = chance.randrange(len(document))
        if not chance.randrange(4):
            return document[:at] + document[at + 1 :] + document[at : at + 1] * chance.randrange(3)
        return [*document[:at], odd(document[at], chance), *document[at + 1 :]]
    return chance.choice(ODD)


def written(document: Any, chance: random.Random) -> bytes:
    content = json.dumps(document).encode()
    return content if chance.randrange(10) else campaign.mutated(content, chance)


def lied(chance: random.Random) -> tuple[bytes, dict[str, bytes]]:
    """What a tag leads to, and the blobs; digests mostly fit, so that a lie gets deep."""
    config = json.loads(SMALL.blobs[SMALL.config])
    text = written(odd(config, chance) if chance.randrange(2) else config, chance)
    manifest = json.loads(SMALL.blobs[SMALL.manifest]) | {"config": described(text, CONFIG)}
    content = written(odd(manifest, chance) if chance.randrange(2) else manifest, chance)
    blobs = {**SMALL.blobs, sha256(text): text, sha256(content): content}
    if chance.randrange(3):
        return content, blobs
    entry = ContainerImage(blobs, sha256(content), sha256(text), []).descriptor(
        os="linux", architecture="amd64"
    )
    result = json.loads(index(entry, SMALL.descriptor(os="linux", architecture="arm64")))
    return written(odd(result, chance) if chance.randrange(2) else result, chance), blobs


def liar(seed: int, often: int) -> Callable[[Handler], None]:
    """Answer properly but for one answer in ``often``, chosen by path and turn."""
    turns: dict[str, int] = {}

    def behave(handler: Handler) -> None:
        turns[handler.path] = turn = turns.get(handler.path, 0) + 1
        part = handler.path.rpartition("/")[2]
        chance = random.Random(f"{seed} {part} {turn}")
        if "/token" in handler.path:
            answer = (
                odd({"token": "t", "expires_in": 60}, chance)
                if chance.randrange(2)
                else {"token": "t"}
            )
            handler.answer(200, json.dumps(answer).encode())
        elif chance.randrange(often):
            proper(handler)
        else:
            lie(handler, chance)

    return behave


def lie(handler: Handler, chance: random.Random) -> None:
    """Send any status, headers and body; then hang up, so that no lie about lengths costs time."""
    body = handler.content or b"{}"
    body = campaign.mutated(body, chance) if chance.randrange(2) else body
    handler.send_response(chance.choice(STATUSES))
    names = chance.sample(sorted(HEADERS), chance.randrange(4))
    for name in {*names, *(["Location"] if not chance.randrange(3) else [])}:
        value = chance.choice(HEADERS[name]).replace(
            "{port}", str(handler.server.server_address[1])
        )
        handler.send_header(name, value)
    length = chance.choice((len(body), len(body), len(body), 0, len(body) + 5, 1 << 62, -1))
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def take(request: Source) -> None:
    """Take an image as a build does; what was taken has the digests that name it."""
    origin = locate(request)
    result = origin.image_for(request.arch)
    pins = pinned(result, request.arch)
    json.dumps(pins)
    configuration.defaults(result.config, Recorder(), with_cmd=True)
    layers = layers_of(pins)
    remaining = (request.cache / result.config_digest.removeprefix("sha256:")).read_bytes()
    assert sha256(remaining) == result.config_digest
    assert json.loads(remaining) == result.config
    with origin.opened(layers) as read, archives(layers, read) as unpacked:
        for layer, chunks in zip(layers, unpacked, strict=True):
            total = hashlib.sha256()
            for chunk in chunks:
                total.update(chunk)
            assert f"sha256:{total.hexdigest()}" == layer.diff_id


def test_what_a_lying_registry_says_is_checked_or_refused(
    server: Faulty, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BACK_OFF", 0.0001)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.001)
    # No input needs an authority, and reading the host's takes longer than all the rest.
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "hunter2")

    numbers = itertools.count()

    def check(chance: random.Random) -> None:
        # Downloads of the input before may still be ending: each has a place of its own.
        name, place = f"x{next(numbers)}", Path(tempfile.mkdtemp(dir=store))
        server.tags["latest"], server.blobs = lied(chance)
        answers = [liar(chance.randrange(1 << 32), chance.choice((2, 8, 1 << 30)))]
        server.behaviours = {f"/v2/{name}/": answers, "/token": answers}
        server.requests.clear()
        try:
            take(source(place, f"{server.name}/{name}"))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    campaign.run("registries", check)
