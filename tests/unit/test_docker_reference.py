"""Image names, completed as Docker completes them."""

from __future__ import annotations

import pytest
from singbuild_docker.reference import is_loopback, named

from singbuild import RecipeKeyError

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("docker://ubuntu", "docker.io/library/ubuntu:latest"),
        ("//ubuntu", "docker.io/library/ubuntu:latest"),
        ("ada/tool", "docker.io/ada/tool:latest"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("localhost/tool:1", "localhost/tool:1"),
        ("host.example/a/b/c:v1.2-3", "host.example/a/b/c:v1.2-3"),
        ("host:5000/a", "host:5000/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("Host/a", "Host/a:latest"),
        (f"a@{DIGEST}", f"docker.io/library/a@{DIGEST}"),
        (f"a:1@{DIGEST}", f"docker.io/library/a:1@{DIGEST}"),
        ("a/b__c.d-e--f", "docker.io/a/b__c.d-e--f:latest"),
    ],
)
def test_a_name_is_completed(text: str, full: str) -> None:
    assert str(named({"From": text})) == full


def test_registry_and_namespace_are_for_names_that_have_none() -> None:
    keywords = {"Registry": "https://host.example:5000/", "Namespace": "ada"}
    assert str(named({"From": "tool", **keywords})) == "host.example:5000/ada/tool:latest"
    assert str(named({"From": "bob/tool", **keywords})) == "host.example:5000/bob/tool:latest"
    assert str(named({"From": "other.example/a", "Registry": "x"})) == "other.example/a:latest"


def test_a_digest_is_asked_for_before_a_tag() -> None:
    assert named({"From": f"a:1@{DIGEST}"}).tag_or_digest == DIGEST
    assert named({"From": "a:1"}).tag_or_digest == "1"


@pytest.mark.parametrize(
    "text",
    [
        *("", "Ubuntu", "a:", "a@sha256:12", "a@md5:0", "a//b", "../a", "a b", "a:b/c", "-a"),
        *("host.example/", f"a:{'t' * 129}", "a.example:x/y", "host?.example/a"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(RecipeKeyError) as caught:
        named({"From": text})
    assert caught.value.keyword == "From"


@pytest.mark.parametrize(
    ("server", "is_so"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("localhost:1", True),
        ("[::1]:5000", True),
        ("127.9.9.9", True),
        ("host.example", False),
        ("localhost.example", False),
        ("10.0.0.1:80", False),
    ],
)
def test_only_this_machine_is_loopback(server: str, is_so: bool) -> None:
    assert is_loopback(server) is is_so
