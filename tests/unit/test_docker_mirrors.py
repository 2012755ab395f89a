"""Mirrors and proxies: images from where the host's configuration says, checked all the same."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import singbuild_docker as backend
from singbuild_docker import mirrors
from singbuild_docker.mirrors import places
from singbuild_docker.reference import DOCKER, named

from singbuild import SourceError
from tests.bench.docker_registry import Faulty, faulty, genuine, push, sends, status
from tests.bench.docker_source import (
    FILES,
    IMAGE,
    basic,
    built,
    certificate,
    fails,
    quick,
    report,
    secure,
    source,
    store,
    wants,
)

__all__ = ["quick", "secure", "store"]
DIGEST = f"a@sha256:{'ab' * 32}"


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's registries.conf; nothing of this host's counts."""
    monkeypatch.setattr(mirrors, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(mirrors, "DAEMON", tmp_path / "daemon.json")
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF", raising=False)
    path = tmp_path / "home/.config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def mirror() -> Iterator[Faulty]:
    with faulty() as server:
        server.add(IMAGE)
        yield server


def mirrored(name: str, *servers: str, more: str = "") -> str:
    lines = [f'[[registry]]\nprefix = "{name}"\n{more}']
    lines += [f'[[registry.mirror]]\nlocation = "{server}"' for server in servers]
    return "\n".join(lines) + "\n"


def requests_to(name: str) -> list[tuple[str, bool]]:
    return [(f"{p.image}", p.insecure) for p in places(named({"From": name}), insecure=False)]


def test_the_longest_prefix_counts_and_the_registry_is_asked_last(configured: Path) -> None:
    configured.write_text(
        mirrored(DOCKER, "m.example:5000/hub", "n.example")
        + mirrored(f"{DOCKER}/ada", "own.example", more='location = "moved.example/bob"\n')
        + mirrored("*.wild.example", "w.example/all", more="insecure = true\n")
    )
    hub = f"{DOCKER}/library/ubuntu:latest"
    there = ["m.example:5000/hub/library/ubuntu:latest", "n.example/library/ubuntu:latest", hub]
    assert requests_to("ubuntu") == [(name, False) for name in there]
    assert requests_to("ada/tool:1") == [
        ("own.example/tool:1", False),
        ("moved.example/bob/tool:1", False),
    ]
    assert requests_to("adam/tool")[0] == ("m.example:5000/hub/adam/tool:latest", False)
    assert requests_to("a.wild.example/x") == [
        ("w.example/all/x:latest", False),
        ("a.wild.example/x:latest", True),
    ]
    assert requests_to("other.example/x") == [("other.example/x:latest", False)]


def test_mirrors_may_be_for_digests_or_for_tags_alone(configured: Path) -> None:
    only = '[[registry.mirror]]\nlocation = "d.example"\npull-from-mirror = "digest-only"\n'
    configured.write_text(mirrored(DOCKER, "m.example") + "\n" + only)
    assert len(requests_to(DIGEST)) == 3
    assert len(requests_to("a:1")) == 2
    configured.write_text(mirrored(DOCKER, "m.example", more="mirror-by-digest-only = true\n"))
    assert (len(requests_to(DIGEST)), len(requests_to("a:1"))) == (2, 1)


def test_daemon_json_has_mirrors_of_dockers_own_registry(configured: Path, tmp_path: Path) -> None:
    assert configured.parent.is_dir()
    (tmp_path / "daemon.json").write_text(
        json.dumps(
            {
                "registry-mirrors": ["https://m.example/", "http://plain.example:5000/x"],
                "insecure-registries": ["plain.corp:5000"],
            }
        )
    )
    assert requests_to("ubuntu") == [
        ("m.example/library/ubuntu:latest", False),
        ("plain.example:5000/x/library/ubuntu:latest", True),
        (f"{DOCKER}/library/ubuntu:latest", False),
    ]
    assert requests_to("plain.corp:5000/a") == [("plain.corp:5000/a:latest", True)]


@pytest.mark.parametrize(
    ("listed", "registry", "insecure"),
    [
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.9.9.9/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3:5000", False),
        ("fd00::/8", "[fd00::1]:5000", True),
        ("10.0.0.0/8", "[fd00::1]:5000", False),
        ("127.0.0.0/8", "localhost:5000", True),
        ("10.0.0.0/8", "localhost:5000", False),
        ("0.0.0.0/0", "no-such-host.invalid:5000", False),
        ("0.0.0.0/0", DOCKER, False),
        ("10.0.0.0/999", "10.1.2.3", False),
        ("10.0.0.0/8", f"{'long' * 30}.example:5000", False),
        ("10.1.2.3", "10.1.2.3:5000", False),
    ],
)
def test_daemon_json_has_insecure_networks(
    configured: Path, tmp_path: Path, listed: str, registry: str, insecure: bool
) -> None:
    assert configured.parent.is_dir()
    (tmp_path / "daemon.json").write_text(json.dumps({"insecure-registries": [listed]}))
    assert requests_to(f"{registry}/a/b:1") == [(f"{registry}/a/b:1", insecure)]


def test_a_registry_in_an_insecure_network_needs_no_known_certificate(
    configured: Path,
    secure: tuple[str, Path],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert configured.parent.is_dir()
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    request = source(store, f"{secure[0]}/x")
    assert "no secure connection" in fails(request, tmp_path)
    (tmp_path / "daemon.json").write_text('{"insecure-registries": ["127.0.0.0/8"]}')
    assert built(request, tmp_path) == FILES


def test_files_in_conf_d_and_another_file_by_variable(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.write_text(mirrored(DOCKER, "first.example"))
    other = configured.parent / "registries.conf.d/50-mine.conf"
    other.parent.mkdir()
    other.write_text(mirrored(f"{DOCKER}/ada", "second.example"))
    assert [requests_to("a")[0][0], requests_to("ada/b")[0][0]] == [
        "first.example/library/a:latest",
        "second.example/b:latest",
    ]
    (tmp_path / "given.conf").write_text(mirrored(DOCKER, "third.example"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "given.conf"))
    assert requests_to("a")[0][0] == "third.example/library/a:latest"


@pytest.mark.parametrize("text", ["[[", "registry = 1", "registry = ['a']", "[registry]\na = 1"])
def test_a_broken_configuration_is_named(configured: Path, text: str) -> None:
    configured.write_text(text)
    with pytest.raises(SourceError, match=f"{configured}: cannot be understood"):
        requests_to("a")


def test_a_blocked_image_is_not_asked_for(
    configured: Path, mirror: Faulty, store: Path, tmp_path: Path
) -> None:
    configured.write_text(mirrored(f"{mirror.name}/secret", more="blocked = true\n"))
    assert "blocks it" in fails(source(store, f"{mirror.name}/secret/x"), tmp_path)
    assert not mirror.requests
    assert built(source(store, f"{mirror.name}/secretary"), tmp_path) == FILES


def test_an_image_of_docker_hub_comes_from_a_mirror(
    configured: Path, store: Path, tmp_path: Path
) -> None:
    with genuine(tmp_path) as name:
        push(IMAGE, name, "library/ubuntu")
        configured.write_text(mirrored(DOCKER, name))
        request = source(store, "ubuntu")
        assert built(request, tmp_path) == FILES
    assert not report(request).warnings
    assert "image" not in request.locked


def test_what_a_mirror_lacks_or_spoils_comes_from_the_registry(
    configured: Path, mirror: Faulty, store: Path, tmp_path: Path
) -> None:
    with faulty() as registry, faulty() as absent:
        registry.add(IMAGE)
        absent.server_close()
        configured.write_text(mirrored(registry.name, absent.name, mirror.name))
        # It knows the tag, lacks one layer, and refuses the configuration.
        del mirror.blobs[IMAGE.layers[0]]
        mirror.behaviours[IMAGE.config] = [status(403)]
        request = source(store, f"{registry.name}/x")
        backend.singbuild_resolve(request)
        # It was asked for the manifest, and not for the configuration again.
        assert sum(absent.name in text for text in report(request).warnings) == 1
        assert built(request, tmp_path) == FILES
    warnings = report(request).warnings
    assert any("a mirror fails, the next place is asked" in text for text in warnings)
    assert mirror.requests_to("/manifests/")
    assert not registry.requests_to("/manifests/")
    assert registry.requests_to(IMAGE.layers[0])


def test_a_mirror_cannot_pass_off_other_bytes(
    configured: Path, mirror: Faulty, store: Path, tmp_path: Path
) -> None:
    with faulty() as registry:
        registry.add(IMAGE)
        configured.write_text(mirrored(registry.name, mirror.name))
        mirror.behaviours[IMAGE.manifest] = [sends(b"{}")]
        request = source(store, f"{registry.name}/x@{IMAGE.manifest}")
        assert built(request, tmp_path) == FILES
    assert any("wrong SHA-256" in text for text in report(request).warnings)


def test_the_password_of_a_registry_is_not_told_to_its_mirror(
    configured: Path,
    mirror: Faulty,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    with faulty() as registry:
        for server in (registry, mirror):
            server.add(IMAGE)
            server.behaviours["/"] = [wants(basic("ada", "secret"), 'Basic realm="x"')]
        configured.write_text(mirrored(registry.name, mirror.name))
        assert built(source(store, f"{registry.name}/x"), tmp_path) == FILES
    assert mirror.requests
    assert not any("authorization" in headers for _, headers in mirror.requests)


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy that leads every name to one address. asked: what it was asked for."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.target = address
        self.targets: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def proxy(address: tuple[str, int]) -> Iterator[Proxy]:
    with Proxy(address) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.targets.append(self.path)
        self.send_error(502)

    def do_CONNECT(self) -> None:
        self.server.targets.append(self.path)
        with socket.create_connection(self.server.target) as far:
            self.send_response(200)
            self.end_headers()
            both = [self.connection, far]
            while ready := select.select(both, [], [], 10)[0]:
                for one in ready:
                    if not (data := one.recv(1 << 16)):
                        return
                    both[not both.index(one)].sendall(data)

    def log_message(self, *args: object) -> None:
        pass


def test_a_registry_elsewhere_is_asked_by_plain_http_only_if_declared_insecure(
    configured: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(("127.0.0.1", 9)) as between:
        monkeypatch.setenv("HTTP_PROXY", between.address)
        monkeypatch.setenv("HTTPS_PROXY", between.address)
        fails(source(store, "registry.example:5000/x"), tmp_path)
        assert set(between.targets) == {"registry.example:5000"}
        between.targets.clear()
        configured.write_text('[[registry]]\nlocation = "registry.example:5000"\ninsecure = true\n')
        fails(source(store, "registry.example:5000/x"), tmp_path)
        assert between.targets[0] == "http://registry.example:5000/v2/"


def test_a_registry_elsewhere_is_reached_through_the_proxy(
    configured: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TLS, with a private authority for its name; the proxy sees none of it."""
    cert, key = certificate(tmp_path, "DNS:registry.example")
    place = tmp_path / "home/.docker/certs.d/registry.example:5000"
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(cert.read_bytes())
    with genuine(tmp_path) as name:
        push(IMAGE, name, "x")
    tls = f"  tls: {{certificate: {cert}, key: {key}}}\n"
    with genuine(tmp_path, tls) as name:
        host, _, port = name.partition(":")
        with proxy((host, int(port))) as between:
            monkeypatch.setenv("HTTPS_PROXY", between.address)
            assert configured.parent.is_dir()
            assert built(source(store, "registry.example:5000/x"), tmp_path) == FILES
            assert set(between.targets) == {"registry.example:5000"}
