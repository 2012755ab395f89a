"""Who we are, to registries that ask: by whom it is told, how, and to whom it is not."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import certifi
import pytest

from singbuild import SourceError
from singbuild.download import fetch
from singbuild.testing.engine import Recorder
from tests.bench.container_engines import needs
from tests.bench.docker_registry import (
    Behaviour,
    Faulty,
    Handler,
    faulty,
    proper,
    status,
)
from tests.bench.docker_source import (
    FILES,
    IMAGE,
    basic,
    built,
    fails,
    quick,
    report,
    secure,
    server,
    source,
    store,
    wants,
)

__all__ = ["quick", "secure", "server", "store"]
PREFIXES = ["SINGBUILD", "APPTAINER", "SINGULARITY"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_credentials_come_from_the_environment(
    server: Faulty, store: Path, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours["/"] = [wants(basic("ada", "s3:cret"), 'Basic realm="x"')]
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "no credentials found" in message
    monkeypatch.setenv(f"{prefix}_DOCKER_USERNAME", "ada")
    monkeypatch.setenv(f"{prefix}_DOCKER_PASSWORD", "wrong")
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "asked as ada" in message
    assert "wrong" not in message
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


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("REGISTRY_AUTH_FILE", "mine.json"),
        ("XDG_RUNTIME_DIR", "containers/auth.json"),
        ("XDG_CONFIG_HOME", "containers/auth.json"),
    ],
)
@pytest.mark.parametrize("of", ["", "/x"])
def test_what_podman_login_keeps_counts_for_the_part_that_it_names(
    secure: tuple[str, Path],
    store: Path,
    tmp_path: Path,
    variable: str,
    place: str,
    of: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs("skopeo")
    name, cert = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    file = tmp_path / place
    monkeypatch.setenv(variable, str(file if variable == "REGISTRY_AUTH_FILE" else tmp_path))
    assert "no credentials found" in fails(source(store, f"{name}/x"), tmp_path)
    words = ["--tls-verify=false", f"--authfile={file}", "-u=ada", "-p=secret", f"{name}{of}"]
    subprocess.run(["skopeo", "login", *words], check=True, capture_output=True)
    others = {f"{name}/{part}": {"auth": "Ym9iOmJvYg=="} for part in ("a", "x/y", "xy")}
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({"auths": others | settings["auths"]}))
    assert built(source(store, f"{name}/x"), tmp_path) == FILES
    assert "asked as bob" in fails(source(store, f"{name}/x/y"), tmp_path)
    message = fails(source(store, f"{name}/none"), tmp_path)
    assert ("no credentials found" if of else "no such image") in message


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
    request = source(store, f"{server.name}/x")
    assert "no credentials found" in fails(request, tmp_path)
    assert "gives no credentials" in "".join(report(request).warnings)


BROKEN: dict[str, dict[str, Any]] = {
    "a helper that is missing": {"credsStore": "nobody-has-it"},
    "another registry's entry": {"auths": {"other.example": {"auth": "Zm9v"}, "x.example": None}},
    "an entry without a value": {"auths": {"{name}": {"auth": None}}},
    "no entry at all": {"auths": {"{name}": None}},
    "nonsense in its place": {"auths": ["{name}"], "credHelpers": 5},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_does_not_stop_an_image_for_everybody(
    server: Faulty, store: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours["/v2/x/"] = [
        wants("Bearer T0ken", f'Bearer realm="http://{server.name}/token"')
    ]
    server.behaviours["/token"] = [answers_everybody]
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    text = json.dumps(BROKEN[what]).replace("{name}", server.name)
    (tmp_path / "config.json").write_text(text)
    request = source(store, f"{server.name}/x")
    assert built(request, tmp_path) == FILES
    message = set(report(request).warnings)
    assert len(message) == (0 if what.startswith("another") else 1), message


def answers_everybody(handler: Handler) -> None:
    handler.answer(200, json.dumps({"token": "T0ken"}).encode())


def test_the_entry_that_is_asked_for_counts_beside_a_broken_one(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours["/"] = [wants(basic("ada", "secret"), 'Basic realm="x"')]
    auth = base64.b64encode(b"ada:secret").decode()
    message = {"auths": {"other.example": {"auth": "Zm9v"}, server.name: {"auth": auth}}}
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(message | {"credsStore": "nobody-has-it"}))
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


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
        message = fails(source(store, f"{server.name}/x"), tmp_path)
        assert "who are you" in message


def test_a_token_that_runs_out_is_renewed(server: Faulty, store: Path, tmp_path: Path) -> None:
    request: list[str] = []

    def tokens(handler: Handler) -> None:
        request.append(f"T{len(request)}")
        handler.answer(200, json.dumps({"access_token": request[-1]}).encode())

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
    assert len(request) > 1


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
        for settings in store.iterdir():
            if settings.is_file():
                settings.unlink()
        fails(source(store, f"{server.name}/x"), tmp_path)
        assert not any("authorization" in headers for _, headers in storage.requests)


def redirects_with_a_token(storage: Faulty, tokens: Faulty) -> Behaviour:
    def behave(handler: Handler) -> None:
        if handler.headers.get("Authorization") == "Bearer T0ken":
            handler.answer(307, Location=f"http://{storage.name}{handler.path}")
        else:
            realm = f'Bearer realm="http://{tokens.name}/token",service="the registry"'
            handler.answer(401, WWW_Authenticate=realm)

    return behave


@pytest.mark.parametrize("netrc", ["", "default login net password rc\n"])
def test_a_token_does_not_follow_a_redirect_either(
    server: Faulty, store: Path, tmp_path: Path, netrc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what ~/.netrc has for every host, which is for other programs."""
    (tmp_path / "home/.netrc").write_text(netrc)
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    with faulty() as storage, faulty() as tokens:
        storage.add(IMAGE)
        tokens.behaviours["/"] = [token_server]
        server.behaviours["/v2/x/"] = [redirects_with_a_token(storage, tokens)]
        assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
        assert len(storage.requests) == 4
        assert not any("authorization" in headers for _, headers in storage.requests)
        authorizations = {headers.get("authorization") for _, headers in server.requests}
        assert authorizations == {None, "Bearer T0ken"}
        tokens_sent = {headers["authorization"] for _, headers in tokens.requests}
        assert tokens_sent == {basic("ada", "secret")}


def test_an_unknown_certificate_is_refused_unless_the_recipe_says_otherwise(
    secure: tuple[str, Path], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = secure
    message = fails(source(store, f"{name}/x"), tmp_path)
    assert "no secure connection" in message
    insecure = source(store, f"{name}/x", Insecure="yes")
    assert "no credentials found" in fails(insecure, tmp_path)
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "secret")
    assert built(insecure, tmp_path) == FILES


@pytest.mark.parametrize("way", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "certs.d"])
def test_a_private_authority_is_told_in_four_ways(
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
    elif way == "SSL_CERT_DIR":
        monkeypatch.setenv(way, str(hashed(cert, tmp_path / "authorities")))
    else:
        monkeypatch.setenv(way, str(cert))
    assert built(source(store, f"{name}/x"), tmp_path) == FILES


def hashed(cert: Path, directory: Path) -> Path:
    """Make a directory of authorities, as OpenSSL looks them up: c_rehash(1)."""
    argv = ["openssl", "x509", "-hash", "-noout", "-in", str(cert)]
    name = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    directory.mkdir()
    (directory / f"{name}.0").write_bytes(cert.read_bytes())
    return directory


def test_a_downloads_authorities_are_the_hosts(
    secure: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of any download; requests itself would ask certifi alone."""
    name, cert = secure
    quiet = Recorder()
    with pytest.raises(SourceError, match="no secure connection"):
        fetch(f"https://{name}/", tmp_path / "files", report=quiet)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert fetch(f"https://{name}/", tmp_path / "files", report=quiet).size == 0
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with pytest.raises(SourceError, match="no secure connection"):
        fetch(f"https://{name}/?", tmp_path / "files", report=quiet)


def test_an_own_key_that_only_root_may_read_is_not_there(
    secure: tuple[str, Path], store: Path, tmp_path: Path
) -> None:
    name, cert = secure
    place = tmp_path / "home/.docker/certs.d" / name
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(cert.read_bytes())
    (place / "closed.crt").write_text("nonsense")
    (place / "own.cert").write_bytes(cert.read_bytes())
    (place / "own.key").write_text("nonsense")
    for path in ("closed.crt", "own.key"):
        (place / path).chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    assert "no credentials found" in fails(source(store, f"{name}/x"), tmp_path)


def test_a_broken_certificate_of_certs_d_is_named(store: Path, tmp_path: Path) -> None:
    place = tmp_path / "home/.docker/certs.d/127.0.0.1:1"
    place.mkdir(parents=True)
    (place / "ca.crt").write_text("nonsense")
    assert str(place) in fails(source(store, "127.0.0.1:1/x"), tmp_path)
