"""A genuine registry by TLS that lets in who has a token of a genuine token server.

Both have certificates of a private authority; the registry verifies the tokens' signatures.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from singbuild_docker import login as logins
from singbuild_docker import oras
from singbuild_docker.source import layers_of, locate, pinned

from singbuild import SourceError
from singbuild.testing.engine import Recorder
from tests.bench.docker_registry import genuine, push
from tests.bench.docker_source import FILES, IMAGE, built, fails, quick, source, store
from tests.bench.docker_tokens import Certificate, TokenServer, authority, signed, token_server

__all__ = ["quick", "store"]
Login = Callable[[str, str], None]


@dataclass(frozen=True)
class Site:
    """A registry and its token server. name: HOST:PORT; ca, own: their authority, certificate."""

    name: str
    tokens: TokenServer
    ca: Path
    own: Certificate


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    where = tmp_path_factory.mktemp("site")
    ca = authority(where)
    own = signed(where, ca)
    with genuine(where) as name:
        for repository in ("open", "secret"):
            push(IMAGE, name, repository)
    with token_server(own, ca) as tokens, genuine(where, own.settings + tokens.settings) as name:
        yield Site(name, tokens, ca.cert, own)


@pytest.fixture
def site(shared: Site, tmp_path: Path) -> Site:
    """Anybody may pull open; ada may pull secret; nobody has been there yet."""
    shared.tokens.begin(rights={"open": ("",), "secret": ("ada",)})
    authorities = tmp_path / "home/.docker/certs.d" / shared.name
    authorities.mkdir(parents=True)
    shutil.copy(shared.ca, authorities / "ca.crt")
    return shared


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Login:
    def log_in(user: str, password: str) -> None:
        monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", user)
        monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", password)

    return log_in


def test_anybody_pulls_what_is_for_anybody(site: Site, store: Path, tmp_path: Path) -> None:
    assert built(source(store, f"{site.name}/open"), tmp_path) == FILES
    assert not any("authorization" in headers for _, headers, _ in site.tokens.requests)


def test_a_password_opens_what_is_private(
    site: Site, store: Path, tmp_path: Path, login: Login
) -> None:
    message = fails(source(store, f"{site.name}/secret"), tmp_path)
    assert f"{site.name}/secret:latest: the registry does not let us have it" in message
    assert "no credentials found" in message
    login("ada", "secret")
    assert built(source(store, f"{site.name}/secret"), tmp_path) == FILES


def test_a_wrong_password_is_said_in_the_token_servers_words(
    site: Site, store: Path, tmp_path: Path, login: Login
) -> None:
    login("ada", "wr0ng")
    message = fails(source(store, f"{site.name}/secret"), tmp_path)
    place = site.tokens.realm.split("/")[2]
    assert f"{place} answers 401 Unauthorized (incorrect username or password)" in message
    assert "asked as ada" in message
    assert "wr0ng" not in message
    assert len(site.tokens.requests) == 1


def test_whoever_has_no_right_is_told_that_the_password_is_not_what_lacks(
    site: Site, store: Path, tmp_path: Path, login: Login
) -> None:
    login("bob", "bob")
    for repository in ("secret", "none"):
        message = fails(source(store, f"{site.name}/{repository}"), tmp_path)
        assert f"{site.name}/{repository}:latest: the registry does not let us have it" in message
        assert "asked as bob, who has no right to pull it" in message
        assert "docker login" not in message


def test_a_token_that_runs_out_between_manifest_and_layers_is_renewed(
    site: Site, store: Path, tmp_path: Path, login: Login
) -> None:
    login("ada", "secret")
    site.tokens.lifetimes = [3, 300]
    request = source(store, f"{site.name}/secret")
    origin = locate(request)
    layers = layers_of(pinned(origin.image_for(request.arch), request.arch))
    (first,) = site.tokens.issued
    url = f"https://{site.name}/v2/secret/blobs/{IMAGE.config}"
    who = {"Authorization": f"Bearer {first}"}
    while (answer := requests.get(url, headers=who, verify=str(site.ca), timeout=60)).ok:
        time.sleep(0.1)
    assert answer.status_code == 401
    with origin.opened(layers) as read:
        for layer in layers:
            assert b"".join(read(layer)) == IMAGE.blobs[layer.digest]
    assert len(site.tokens.issued) == 2


def test_what_docker_login_keeps_instead_of_a_password_is_enough(
    site: Site, store: Path, tmp_path: Path
) -> None:
    """A refresh token: in the file as identitytoken, sent in a form."""
    file = tmp_path / "home/.docker/config.json"
    auth = base64.b64encode(b"ada:").decode()
    entry = {"auth": auth, "identitytoken": site.tokens.refresh}
    file.write_text(json.dumps({"auths": {site.name: entry}}))
    assert built(source(store, f"{site.name}/secret"), tmp_path) == FILES
    assert {method for method, _, _ in site.tokens.requests} == {"POST"}
    file.write_text(json.dumps({"auths": {site.name: entry | {"identitytoken": "old"}}}))
    assert "log in again" in fails(source(store, f"{site.name}/secret"), tmp_path)


def test_a_token_server_of_an_unknown_authority_gets_no_password(
    site: Site, store: Path, tmp_path: Path, login: Login
) -> None:
    login("ada", "secret")
    (tmp_path / "home/.docker/certs.d" / site.name / "ca.crt").unlink()
    assert "no secure connection" in fails(source(store, f"{site.name}/secret"), tmp_path)
    assert not site.tokens.requests
    # A recipe may say that it trusts the network.
    insecure = source(store, f"{site.name}/secret", Insecure="yes")
    assert built(insecure, tmp_path) == FILES


def test_our_certificate_is_for_the_registry_alone(
    shared: Site, store: Path, tmp_path: Path
) -> None:
    shared.tokens.begin(rights={"open": ("",)})
    tls = f"{shared.own.settings[:-2]}, clientcas: [{shared.ca}]}}\n"
    (tmp_path / "data").symlink_to(shared.ca.parent / "data")
    with genuine(tmp_path, tls + shared.tokens.settings) as name:
        place = tmp_path / "home/.docker/certs.d" / name
        place.mkdir(parents=True)
        shutil.copy(shared.ca, place / "ca.crt")
        assert "no secure connection" in fails(source(store, f"{name}/open"), tmp_path)
        shutil.copy(shared.own.cert, place / "client.cert")
        shutil.copy(shared.own.key, place / "client.key")
        assert built(source(store, f"{name}/open"), tmp_path) == FILES
    assert shared.tokens.requests
    assert not shared.tokens.certificates


def test_skopeo_sees_the_same_site_in_the_same_way(site: Site, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    argv = ["skopeo", "inspect", f"--cert-dir={tmp_path}/home/.docker/certs.d/{site.name}"]
    result = {}
    for user in ("ada:secret", "ada:wrong", "bob:bob"):
        words = [*argv, f"--creds={user}", f"docker://{site.name}/secret"]
        result[user] = subprocess.run(words, capture_output=True, text=True)
    assert json.loads(result["ada:secret"].stdout)["Digest"] == IMAGE.manifest
    assert [each.returncode for each in result.values()] == [0, 1, 1]


def test_who_may_pushes_and_who_may_not_is_told(
    site: Site, store: Path, tmp_path: Path, login: Login
) -> None:
    request = source(store, f"{site.name}/secret:pushed")
    content = b"an image's file" * 70_000
    file = tmp_path / "tool.img"
    file.write_bytes(content)
    with pytest.raises(SourceError) as raised:
        oras.singbuild_put(file, "ext3", request, {}, "tool.img")
    assert "secret:pushed: the registry does not take it from us" in str(raised.value)
    login("ada", "secret")
    digest = oras.singbuild_put(file, "ext3", request, {"lab": "ada's"}, "tool.img")
    assert [form["scope"] for _, _, form in site.tokens.requests][
        -1
    ] == "repository:secret:pull,push"
    answer = oras.singbuild_get(source(store, f"{site.name}/secret@{digest}"))
    assert answer.path.read_bytes() == content


def test_a_login_is_kept_where_docker_has_it(site: Site, tmp_path: Path) -> None:
    settings = tmp_path / "home/.docker/config.json"
    settings.write_text('{"auths": {"other.example": {"auth": "eA=="}}, "detachKeys": "ctrl-q"}')
    report = Recorder()
    with pytest.raises(SourceError, match="incorrect username or password"):
        logins.login(site.name, "ada", "wrong", report)
    assert "other.example" in settings.read_text()
    assert logins.login(f"oras://{site.name}", "ada", "secret", report) == str(settings)
    assert settings.stat().st_mode & 0o777 == 0o600
    message = json.loads(settings.read_text())
    assert base64.b64decode(message["auths"][site.name]["auth"]) == b"ada:secret"
    assert message["detachKeys"] == "ctrl-q"
    answer = locate(source(tmp_path / "store", f"{site.name}/secret")).image_for("x86_64")
    assert answer.digest == IMAGE.manifest
    assert logins.logout(site.name) == str(settings)
    assert logins.logout(site.name) == ""
    assert sorted(json.loads(settings.read_text())["auths"]) == ["other.example"]
