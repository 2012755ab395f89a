"""A registry's origin is scheme, host and port; who we are is told to that one alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from singbuild_docker.authorization import Authorization
from singbuild_docker.connection import Connector
from singbuild_docker.mirrors import Place
from singbuild_docker.reference import Reference

from singbuild import SourceError
from singbuild.testing.engine import Recorder
from tests.bench.docker_registry import Faulty, faulty, status

CHALLENGES = ['Basic realm="x"', 'Bearer realm="https://127.0.0.1:9/token",service="x"']


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("SINGBUILD_DOCKER_USERNAME", "ada")
    monkeypatch.setenv("SINGBUILD_DOCKER_PASSWORD", "hunter2")
    with faulty() as faulty_server:
        yield faulty_server


def authorization(url: str, server: str, *, insecure: bool = False) -> Authorization:
    place = Place(Reference(server, "x", "latest"), insecure)
    return Authorization(place, url, Connector(server, insecure=insecure).open(), Recorder())


@pytest.mark.parametrize("challenge", CHALLENGES)
def test_the_same_host_and_port_by_plain_http_is_another_origin(
    server: Faulty, challenge: str
) -> None:
    server.behaviours["/"] = [status(401, WWW_Authenticate=challenge)]
    with Connector(server.name, insecure=True).open() as session:
        session.auth = authorization(f"https://{server.name}/v2/x", server.name, insecure=True)
        answer = session.get(f"http://{server.name}/v2/x/blobs/y", timeout=60)
    assert answer.status_code == requests.codes.unauthorized
    assert [headers.get("authorization") for _, headers in server.requests] == [None]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "127.1", "[::1]:9", "0.0.0.0"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_registry_elsewhere_may_not_name_this_machine_as_its_token_server(
    server: Faulty, scheme: str, host: str
) -> None:
    server.behaviours["/"] = [
        status(401, WWW_Authenticate=f'Bearer realm="{scheme}://{host}/token"')
    ]
    asker = authorization("https://registry.example/v2/x", "registry.example", insecure=True)
    answer = requests.get(f"http://{server.name}/v2/", timeout=60)
    with pytest.raises(SourceError, match="token server") as caught:
        asker._make_header(answer)
    assert "this machine itself" in caught.value.why


@pytest.mark.parametrize("realm", ["http://tokens.example/", "", "x", "https://[", "ftp://a/"])
def test_a_password_goes_to_a_token_server_by_https_only(server: Faulty, realm: str) -> None:
    server.behaviours["/"] = [status(401, WWW_Authenticate=f'Bearer realm="{realm}"')]
    for registry in ("https://registry.example/v2/x", f"http://{server.name}/v2/x"):
        answer = requests.get(f"http://{server.name}/v2/", timeout=60)
        with pytest.raises(SourceError, match="token server"):
            authorization(registry, server.name)._make_header(answer)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{}" * (1 << 20), b"[]", b'{"token": 5}'])
def test_an_answer_that_is_no_token_is_bounded_and_refused(server: Faulty, body: bytes) -> None:
    server.behaviours["/token"] = [status(200, body)]
    server.behaviours["/v2/"] = [
        status(401, WWW_Authenticate=f'Bearer realm="http://{server.name}/token"')
    ]
    answer = requests.get(f"http://{server.name}/v2/", timeout=60)
    with pytest.raises(SourceError, match="gives no token"):
        authorization(f"http://{server.name}/v2/x", server.name)._make_header(answer)
