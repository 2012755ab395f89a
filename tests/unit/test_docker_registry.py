"""Images from registries on loopback: what works, and every way in which it may not."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import singbuild_docker as backend

from singbuild import Rootfs, SingbuildError, Source, transfer
from tests import backend_alone
from tests.docker_images import (
    INDEX,
    archive,
    described,
    file,
    image,
    index,
    sha256,
    whiteout,
)
from tests.docker_registry import (
    Faulty,
    Handler,
    breaks_after,
    faulty,
    genuine,
    proper,
    push,
    put_manifest,
    sends,
    status,
)

OWNER: dict[str, Any] = {"uid": os.getuid(), "gid": os.getgid()}
NOISE = os.urandom(400_000)
LOWER = archive(file("a", b"A", **OWNER), file("gone", **OWNER), file("noise", NOISE, **OWNER))
UPPER = archive(whiteout("gone"), file("b", b"B", **OWNER))
IMAGE = image(LOWER, UPPER, config={"Env": ["A=1"], "Entrypoint": ["/a"]})
FILES = ["a", "b", "noise"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tries again at once; a home without anybody's credentials; no proxy between us."""
    monkeypatch.setattr(transfer, "BACK_OFF", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or "_DOCKER_" in name or name.startswith("XDG_"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Faulty]:
    with faulty() as server:
        server.add(IMAGE)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    return made


def source(store: Path, name: str, arch: str = "x86_64", **keywords: str) -> Source:
    given = {"From": name, "IncludeCmd": "yes", "Insecure": "no", **keywords}
    return replace(backend_alone.source(store, arch=arch, **given), bootstrap="docker")


def built(given: Source, tmp_path: Path) -> list[str]:
    """Resolve and unpack; return the names in the tree."""
    root = tmp_path / f"root-{len(list(tmp_path.iterdir()))}"
    root.mkdir()
    pins = backend.singbuild_resolve(given)
    backend.singbuild_bootstrap(given, pins, Rootfs(root, given.report))
    assert not (root / "noise").exists() or (root / "noise").read_bytes() == NOISE
    return sorted(path.name for path in root.iterdir())


def fails(given: Source, tmp_path: Path) -> str:
    with pytest.raises(SingbuildError) as caught:
        built(given, tmp_path)
    return str(caught.value)


def report(given: Source) -> backend_alone.Recorder:
    assert isinstance(given.report, backend_alone.Recorder)
    return given.report


def test_an_image_of_a_genuine_registry(store: Path, tmp_path: Path) -> None:
    with genuine(tmp_path) as name:
        push(IMAGE, name, "ada/tool", "1")
        given = source(store, f"{name}/ada/tool:1")
        pins = backend.singbuild_resolve(given)
        assert pins["digest"] == IMAGE.manifest
        assert pins["config"] == IMAGE.config
        assert [layer["digest"] for layer in pins["layers"]] == IMAGE.layers
        assert pins["epoch"] == 1_600_000_000
        assert built(given, tmp_path) == FILES
        by_digest = source(store, f"{name}/ada/tool@{IMAGE.manifest}")
        assert built(by_digest, tmp_path) == FILES
    found = backend.singbuild_defaults(given, pins, Rootfs(tmp_path, given.report))
    assert found.environment == {"A": "1"}
    assert found.runscript == '#!/bin/sh\nexec /a "$@"\n'


@pytest.mark.parametrize("packing", ["", "+gzip", "+zstd"])
def test_layers_may_be_packed_in_three_ways(
    server: Faulty, store: Path, tmp_path: Path, packing: str
) -> None:
    server.add(image(LOWER, UPPER, packing=packing))
    given = source(store, f"{server.name}/x")
    assert built(given, tmp_path) == FILES
    assert report(given).lines[0].startswith("Downloading layer: sha256:")


def test_layers_may_have_many_members_or_frames(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    from tests.docker_images import PACK

    for packing in ("+gzip", "+zstd"):
        pack = PACK[packing]
        content = b"".join(pack(LOWER[at : at + 9999]) for at in range(0, len(LOWER), 9999))
        about = json.loads(IMAGE.blobs[IMAGE.manifest])
        kind = f"application/vnd.oci.image.layer.v1.tar{packing}"
        about["layers"][0] = described(content, kind)
        made = IMAGE.remade(json.dumps(about).encode())
        made.blobs[sha256(content)] = content
        server.add(made)
        assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def test_an_index_is_asked_for_the_machine(store: Path, tmp_path: Path) -> None:
    arm = image(archive(file("arm", **OWNER)), arch="arm64")
    old = image(archive(file("v6", **OWNER)), arch="arm")
    new = image(archive(file("v7", **OWNER)), arch="arm")
    with genuine(tmp_path) as name:
        for tag, each in {"a": IMAGE, "b": arm, "c": old, "d": new}.items():
            push(each, name, "x", tag)
        listed = index(
            arm.descriptor(os="linux", architecture="arm64", variant="v8"),
            IMAGE.descriptor(os="windows", architecture="amd64"),
            arm.descriptor(os="linux", architecture="amd64", variant="v3"),
            IMAGE.descriptor(os="linux", architecture="amd64"),
            old.descriptor(os="linux", architecture="arm", variant="v6"),
            new.descriptor(os="linux", architecture="arm", variant="v7"),
            arm.descriptor(os="unknown", architecture="unknown"),
        )
        put_manifest(listed, INDEX, name, "x", "multi")
        for arch, files in {
            "x86_64": FILES,
            "aarch64": ["arm"],
            "armv7l": ["v7"],
            "armv6l": ["v6"],
        }.items():
            assert built(source(store, f"{name}/x:multi", arch), tmp_path) == files
        said = fails(source(store, f"{name}/x:multi", "s390x"), tmp_path)
        assert "no image for linux/s390x" in said
        assert "linux/arm64/v8" in said
        said = fails(source(store, f"{name}/x:b"), tmp_path)
        assert "is for linux/arm64, not for linux/amd64" in said


def test_a_second_build_fetches_no_layer_again(server: Faulty, store: Path, tmp_path: Path) -> None:
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    given = source(store, f"{server.name}/x")
    assert built(given, tmp_path) == FILES
    assert len(server.asked("/blobs/")) == 3
    assert report(given).lines[0].startswith("Using cached layer: ")


def test_builds_at_the_same_time_fetch_each_layer_once(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        proper(handler)

    server.behaviours[IMAGE.layers[0]] = [slow]
    results: list[list[str]] = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    threads = [
        threading.Thread(
            target=lambda n=number: results.append(
                built(source(store, f"{server.name}/x"), tmp_path / str(n))
            )
        )
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [FILES] * 3
    assert len(server.asked("/blobs/")) == 3


def test_a_damaged_file_of_the_store_is_fetched_again(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    kept = store / IMAGE.layers[0].removeprefix("sha256:")
    kept.write_bytes(b"damage" + kept.read_bytes()[6:])
    given = source(store, f"{server.name}/x")
    assert built(given, tmp_path) == FILES
    assert "is damaged and is fetched again" in report(given).warnings[0]


def test_offline_the_store_is_all_there_is(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    asked = len(server.requests)
    monkeypatch.setenv("SINGBUILD_OFFLINE", "1")
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    said = fails(source(store, f"{server.name}/x:other"), tmp_path)
    assert "SINGBUILD_OFFLINE is set" in said
    (store / IMAGE.layers[1].removeprefix("sha256:")).unlink()
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert IMAGE.layers[1] in said
    assert len(server.requests) == asked


def test_a_lock_is_kept_to_when_the_tag_moves(server: Faulty, store: Path, tmp_path: Path) -> None:
    first = source(store, f"{server.name}/x")
    pins = backend.singbuild_resolve(first)
    server.add(image(archive(file("moved", **OWNER))))
    assert built(first, tmp_path) == ["moved"]
    kept = replace(first, locked=pins)
    assert backend.singbuild_resolve(kept) == pins
    assert built(kept, tmp_path) == FILES


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


def test_a_layer_that_breaks_off_is_resumed(server: Faulty, store: Path, tmp_path: Path) -> None:
    server.behaviours[IMAGE.layers[0]] = [breaks_after(100_000), proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    ranges = [headers.get("range", "") for headers in server.asked(IMAGE.layers[0])]
    assert ranges[0] == ""
    assert re.fullmatch(r"bytes=\d+-", ranges[-1])


def test_a_layer_that_never_comes_whole_ends_the_build_and_is_resumed_by_the_next(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours[IMAGE.layers[0]] = [breaks_after(200_000)]
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "the connection broke" in said
    server.behaviours[IMAGE.layers[0]] = [breaks_after(200_000), proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def lies(about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Manifests that are not true, by what is said of them."""
    layer = about["layers"][0]

    def with_layer(**changed: Any) -> dict[str, Any]:
        return about | {"layers": [layer | changed, *about["layers"][1:]]}

    return {
        "has .* bytes, not the": with_layer(size=layer["size"] + 1),
        "is larger than the": with_layer(size=layer["size"] - 1),
        "should be zstd, and is gzip": with_layer(
            mediaType="application/vnd.oci.image.layer.v1.tar+zstd"
        ),
        "should be plain, and is gzip": with_layer(
            mediaType="application/vnd.oci.image.layer.v1.tar"
        ),
        "of type 'text/html' is no layer": with_layer(mediaType="text/html"),
        "has 1 layers and 2 diff ids": about | {"layers": about["layers"][1:]},
        "has the wrong SHA-256": about | {"layers": about["layers"][::-1]},
        "'sha512:0' is no SHA-256 digest": with_layer(digest="sha512:0"),
        "is no SHA-256 digest": with_layer(digest="sha256:../../../../etc/passwd"),
        "no size or type": with_layer(size=-1),
        "no size": with_layer(size=True),
        "manifest is incomplete": {k: v for k, v in about.items() if k != "config"},
        "no list of layers": about | {"layers": "none"},
        "is no image's": about | {"mediaType": "text/plain"},
        "schema 1": {"schemaVersion": 1, "fsLayers": []},
        "says it is .*, and is not": about | {"mediaType": INDEX},
        "no image's": about | {"manifests": []},
    }


@pytest.mark.parametrize("what", lies(json.loads(IMAGE.blobs[IMAGE.manifest])))
def test_a_manifest_that_lies_is_refused(
    server: Faulty, store: Path, tmp_path: Path, what: str
) -> None:
    about = lies(json.loads(IMAGE.blobs[IMAGE.manifest]))[what]
    server.add(IMAGE.remade(json.dumps(about).encode()))
    assert re.search(what, fails(source(store, f"{server.name}/x"), tmp_path))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_none_is_refused(
    server: Faulty, store: Path, tmp_path: Path, content: bytes
) -> None:
    server.behaviours["/manifests/"] = [sends(content)]
    assert "is no sound image" in fails(source(store, f"{server.name}/x"), tmp_path)


def test_a_manifest_of_the_wrong_digest_is_refused(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours["/manifests/"] = [sends(b"{}")]
    said = fails(source(store, f"{server.name}/x@{IMAGE.manifest}"), tmp_path)
    assert "wrong SHA-256" in said


@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_of_other_bytes_is_refused(
    server: Faulty, store: Path, tmp_path: Path, place: int
) -> None:
    other = server.blobs[IMAGE.layers[place]]
    server.behaviours[IMAGE.layers[place]] = [sends(other[:-9] + b"different")]
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "wrong SHA-256" in said or "damaged" in said
    assert not (store / IMAGE.layers[place].removeprefix("sha256:")).exists()


def test_a_layer_whose_archive_is_another_is_refused_by_name(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    about = json.loads(IMAGE.blobs[IMAGE.config])
    about["rootfs"]["diff_ids"][1] = sha256(b"other")
    text = json.dumps(about).encode()
    made = IMAGE.changed("config", described(text, "application/json"))
    made.blobs[sha256(text)] = text
    server.add(made)
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert f"layer {IMAGE.layers[1]}: its archive has the wrong SHA-256" in said


def test_a_hostile_entry_is_refused_with_its_name_and_layer(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    made = image(LOWER, archive(file("../evil")))
    server.add(made)
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert said.startswith(f"layer {made.layers[1]}: ../evil: cannot be unpacked")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("packing", ["+gzip", "+zstd"])
def test_a_bomb_is_refused(
    server: Faulty, store: Path, tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from singbuild_docker import inflate

    monkeypatch.setattr(inflate, "RATIO_FROM", 1 << 20)
    server.add(image(archive(file("zeros", bytes(30 << 20), **OWNER)), packing=packing))
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "SINGBUILD_UNPACK_RATIO" in said
    monkeypatch.setenv("SINGBUILD_UNPACK_RATIO", "100000")
    assert built(source(store, f"{server.name}/x"), tmp_path) == ["zeros"]


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "does not let us have it"),
        (403, "does not let us have it"),
        (404, "no such image|lost"),
    ],
)
def test_what_will_not_pass_is_said_at_once(
    server: Faulty, store: Path, tmp_path: Path, part: str, code: int, said: str
) -> None:
    body = b'{"errors": [{"code": "X", "message": "the reason"}]}'
    server.behaviours[part] = [status(code, body)]
    found = fails(source(store, f"{server.name}/x"), tmp_path)
    assert re.search(said, found)
    assert code == 404 or "the reason" in found
    assert len(server.asked(part)) == 1


def test_a_layer_that_vanishes_after_the_manifest_is_named(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours[IMAGE.layers[1]] = [status(404)]
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert f"has lost {IMAGE.layers[1]}" in said


def test_nobody_there_is_said(store: Path, tmp_path: Path) -> None:
    with faulty() as gone:
        name = gone.name
    gone.server_close()
    assert "refuses connections" in fails(source(store, f"{name}/x"), tmp_path)


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


PREFIXES = ["SINGBUILD", "APPTAINER", "SINGULARITY"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_credentials_come_from_the_environment(
    server: Faulty, store: Path, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours["/"] = [wants(basic("ada", "s3:cret"), 'Basic realm="x"')]
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "no credentials found" in said
    monkeypatch.setenv(f"{prefix}_DOCKER_USERNAME", "ada")
    monkeypatch.setenv(f"{prefix}_DOCKER_PASSWORD", "wrong")
    said = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "asked as ada" in said
    assert "wrong" not in said
    monkeypatch.setenv(f"{prefix}_DOCKER_PASSWORD", "s3:cret")
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def test_credentials_come_from_the_file_of_docker_login(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    server.behaviours["/"] = [wants(basic("ada", "secret"), 'Basic realm="x"')]
    auth = base64.b64encode(b"ada:secret").decode()
    (tmp_path / "home/.docker").mkdir()
    config = tmp_path / "home/.docker/config.json"
    config.write_text(json.dumps({"auths": {f"http://{server.name}": {"auth": auth}}}))
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def test_credentials_come_from_a_helper(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours["/"] = [wants(basic("ada", "secret"), 'Basic realm="x"')]
    helper = tmp_path / "bin/docker-credential-mine"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\necho \'{"Username": "ada", "Secret": "secret"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {server.name: "mine"}}))
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    helper.write_text("#!/bin/sh\necho broken; exit 1\n")
    assert "gives no credentials" in fails(source(store, f"{server.name}/x"), tmp_path)


def token_server(handler: Handler) -> None:
    """Give a token to whoever may have one: distribution specification, "Token Authentication"."""
    if handler.headers.get("Authorization") not in (None, basic("ada", "secret")):
        handler.answer(401, b'{"errors": [{"message": "who are you"}]}')
        return
    assert "scope=repository%3Ax%3Apull" in handler.path
    assert "service=the+registry" in handler.path
    handler.answer(200, b'{"token": "T0ken"}')


def test_tokens_are_asked_for_where_the_registry_says(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty() as tokens:
        tokens.behaviours["/"] = [token_server]
        challenge = f'Bearer realm="http://{tokens.name}/token",service="the registry"'
        server.behaviours["/"] = [wants("Bearer T0ken", challenge)]
        assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
        monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
        monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
        assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
        assert tokens.requests[-1][1]["authorization"] == basic("ada", "secret")
        monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "wrong")
        said = fails(source(store, f"{server.name}/x"), tmp_path)
        assert "who are you" in said


def test_a_token_that_runs_out_is_renewed(server: Faulty, store: Path, tmp_path: Path) -> None:
    given: list[str] = []

    def tokens(handler: Handler) -> None:
        given.append(f"T{len(given)}")
        handler.answer(200, json.dumps({"access_token": given[-1]}).encode())

    def short(handler: Handler) -> None:
        # The token of the manifest has run out when the layers are fetched.
        token = handler.headers.get("Authorization", "")
        if token and (token == "Bearer T0") == ("/manifests/" in handler.path):
            proper(handler)
        else:
            realm = f'Bearer realm="http://{server.name}/token",service="s"'
            handler.answer(401, WWW_Authenticate=realm)

    server.behaviours = {"/token": [tokens], "/v2/x/": [short]}
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    assert len(given) > 1


def test_a_password_is_not_sent_to_a_token_server_over_an_open_line(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    challenge = 'Bearer realm="http://tokens.example/token",service="s"'
    server.behaviours["/v2/x/"] = [wants("Bearer never", challenge)]
    assert "by https only" in fails(source(store, f"{server.name}/x"), tmp_path)


def test_credentials_do_not_follow_a_redirect_to_another_host(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    with faulty() as storage:
        storage.add(IMAGE)

        def redirects(handler: Handler) -> None:
            if handler.headers.get("Authorization") != basic("ada", "secret"):
                handler.answer(401, WWW_Authenticate='Basic realm="x"')
            elif "/blobs/" in handler.path:
                handler.answer(307, Location=f"http://{storage.name}{handler.path}")
            else:
                proper(handler)

        server.behaviours["/v2/x/"] = [redirects]
        assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
        assert len(storage.requests) == 3
        assert not any("authorization" in headers for _, headers in storage.requests)
        # And a storage that asks who we are is told nothing either.
        storage.behaviours["/"] = [status(401, WWW_Authenticate='Basic realm="x"')]
        for kept in store.iterdir():
            if kept.is_file():
                kept.unlink()
        fails(source(store, f"{server.name}/x"), tmp_path)
        assert not any("authorization" in headers for _, headers in storage.requests)


def certificate(where: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1, its own authority; return it and its key."""
    cert, key = where / "cert.pem", where / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
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


def test_an_unknown_certificate_is_refused_unless_the_recipe_says_otherwise(
    secure: tuple[str, Path], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = secure
    said = fails(source(store, f"{name}/x"), tmp_path)
    assert "no secure connection" in said
    insecure = source(store, f"{name}/x", Insecure="yes")
    assert "no credentials found" in fails(insecure, tmp_path)
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    assert built(insecure, tmp_path) == FILES


@pytest.mark.parametrize("way", ["REQUESTS_CA_BUNDLE", "certs.d"])
def test_a_private_authority_is_told_in_two_ways(
    secure: tuple[str, Path],
    store: Path,
    tmp_path: Path,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, cert = secure
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    if way == "certs.d":
        place = tmp_path / "home/.docker/certs.d" / name
        place.mkdir(parents=True)
        (place / "ca.crt").write_bytes(cert.read_bytes())
    else:
        monkeypatch.setenv(way, str(cert))
    assert built(source(store, f"{name}/x"), tmp_path) == FILES


def test_a_broken_certificate_of_certs_d_is_named(store: Path, tmp_path: Path) -> None:
    place = tmp_path / "home/.docker/certs.d/127.0.0.1:1"
    place.mkdir(parents=True)
    (place / "ca.crt").write_text("nonsense")
    assert str(place) in fails(source(store, "127.0.0.1:1/x"), tmp_path)


def test_this_machine_is_reached_without_a_proxy(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


FETCH = """
import sys
from pathlib import Path
from tests.unit import test_docker_registry as t
t.built(t.source(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))
"""


def test_ctrl_c_ends_at_once_and_leaves_what_can_be_resumed(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    def stalls(handler: Handler) -> None:
        content = handler.content or b""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:200_000])
        handler.wfile.flush()
        time.sleep(20)

    server.behaviours[IMAGE.layers[0]] = [stalls]
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
    assert time.monotonic() - began < 5
    server.behaviours[IMAGE.layers[0]] = [proper]
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    assert server.asked(IMAGE.layers[0])[-1]["range"].startswith("bytes=")
