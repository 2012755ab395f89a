"""One image of two layers, and what fetching it from a registry as a backend does makes of it."""

from __future__ import annotations

import base64
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import singbuild_docker as backend

from singbuild import Rootfs, SingbuildError, Source
from singbuild.download import retry
from tests.bench import backend_alone
from tests.bench.docker_images import (
    archive,
    file,
    image,
    whiteout,
)
from tests.bench.docker_registry import (
    Faulty,
    Handler,
    faulty,
    genuine,
    proper,
    push,
)

OWNER: dict[str, Any] = {"uid": os.getuid(), "gid": os.getgid()}
NOISE = random.Random(1).randbytes(400_000)  # alike in all workers, whose names hold digests
LOWER = archive(file("a", b"A", **OWNER), file("gone", **OWNER), file("noise", NOISE, **OWNER))
UPPER = archive(whiteout("gone"), file("b", b"B", **OWNER))
IMAGE = image(LOWER, UPPER, config={"Env": ["A=1"], "Entrypoint": ["/a"]})
FILES = ["a", "b", "noise"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Try again at once, without credentials, authorities or a proxy of this host's."""
    monkeypatch.setattr(retry, "BACK_OFF", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in list(os.environ):
        ours = name.lower().endswith(("_proxy", "_ca_bundle")) or "_DOCKER_" in name
        if ours or name.startswith(("XDG_", "SSL_CERT_")):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Faulty]:
    with faulty() as server:
        server.add(IMAGE)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = tmp_path / "store"
    place.mkdir()
    return place


def source(store: Path, name: str, arch: str = "x86_64", **keywords: str) -> Source:
    request = {"From": name, "IncludeCmd": "yes", "Insecure": "no", **keywords}
    return replace(backend_alone.source(store, arch=arch, **request), bootstrap="docker")


def built(request: Source, tmp_path: Path) -> list[str]:
    """Resolve and unpack; return the names in the tree."""
    root = tmp_path / f"root-{len(list(tmp_path.iterdir()))}"
    root.mkdir()
    pins = backend.singbuild_resolve(request)
    backend.singbuild_bootstrap(request, pins, Rootfs(root, request.report))
    assert not (root / "noise").exists() or (root / "noise").read_bytes() == NOISE
    return sorted(path.name for path in root.iterdir())


def fails(request: Source, tmp_path: Path) -> str:
    with pytest.raises(SingbuildError) as caught:
        built(request, tmp_path)
    return str(caught.value)


def report(request: Source) -> backend_alone.Recorder:
    assert isinstance(request.report, backend_alone.Recorder)
    return request.report


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def wants(header: str, challenge: str) -> Any:
    """Answer only those who send a header."""

    def behave(handler: Handler) -> None:
        if handler.headers.get("Authorization") == header:
            proper(handler)
        else:
            handler.answer(401, WWW_Authenticate=challenge)

    return behave


def certificate(where: Path, name: str = "IP:127.0.0.1") -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1, its own authority; return it and its key."""
    cert, key = where / "cert.pem", where / "key.pem"
    # RSA's would take a fifth of a second to find.
    argv = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
    argv += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
    argv += ["-out", str(cert), "-keyout", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A genuine registry with TLS and passwords, filled; HOST:PORT and the authority."""
    cert, key = certificate(tmp_path)
    with genuine(tmp_path) as name:
        push(IMAGE, name, "x")
    users = subprocess.run(["htpasswd", "-Bbn", "ada", "secret"], capture_output=True, check=True)
    (tmp_path / "users").write_bytes(users.stdout)
    tls = f"  tls: {{certificate: {cert}, key: {key}}}\n"
    auth = f"auth:\n  htpasswd: {{realm: test, path: {tmp_path}/users}}\n"
    with genuine(tmp_path, tls + auth) as name:
        yield name, cert
