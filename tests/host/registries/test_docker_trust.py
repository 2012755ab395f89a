"""The host's policy.json, and cosign's signatures by keys, with Debian's docker-registry."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import singbuild_docker as backend
from singbuild_docker import cosign, oras, trust
from singbuild_docker.keys import private_key, public_key
from singbuild_docker.reference import Reference, named

from singbuild import Source, SourceError
from tests.bench.docker_images import INDEX, image, index
from tests.bench.docker_registry import genuine, push, put_manifest
from tests.bench.docker_source import IMAGE, LOWER, built, quick, source, store

__all__ = ["quick", "store"]
pytestmark = pytest.mark.usefixtures("quick")
OTHER = image(LOWER)
ANY = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with key pairs of ada and bob, of P-256."""
    for name in ("ada", "bob"):
        curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        private, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        words = ["openssl", "genpkey", *curve, "-out", str(private)]
        subprocess.run(words, check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return tmp_path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with genuine(tmp_path) as name:
        push(IMAGE, name, "lab/tool", "1")
        yield name


def policy(default: object = REJECT, **transports: object) -> Path:
    path = Path.home() / ".config/containers/policy.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"default": [default], "transports": transports}))
    return path


def signed(key: Path, **identity: str) -> dict[str, object]:
    requirement: dict[str, object] = {"type": "sigstoreSigned", "keyPath": str(key)}
    return requirement | ({"signedIdentity": identity} if identity else {})


def resolve(store: Path, name: str, **keywords: str) -> str:
    """The digest of an image that is let in."""
    return str(backend.singbuild_resolve(source(store, name, **keywords))["digest"])


def sign(place: Source, digest: str, key: Path) -> str:
    return oras.singbuild_signer(place, key)(digest, {})


def refusal(store: Path, name: str) -> str:
    with pytest.raises(SourceError) as caught:
        resolve(store, name)
    assert "policy" in caught.value.what
    return caught.value.why


def test_without_a_policy_everything_is_taken(
    store: Path, registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trust, "SYSTEM", tmp_path / "none.json")
    assert resolve(store, f"{registry}/lab/tool:1") == IMAGE.manifest
    policy(ANY)
    assert resolve(store, f"{registry}/lab/tool:1") == IMAGE.manifest


def test_a_signed_image_is_taken_and_no_other(
    store: Path, registry: str, keys: Path, tmp_path: Path
) -> None:
    name = f"{registry}/lab/tool:1"
    repository = {"type": "matchRepository"}
    policy(REJECT, docker={registry: [signed(keys / "ada.pem", **repository)]})
    assert "no signature exists" in refusal(store, name)
    request = source(store, name)
    sign(request, IMAGE.manifest, keys / "bob.key")
    assert "No signature of it" in refusal(store, name)
    sign(request, IMAGE.manifest, keys / "ada.key")  # bob's stays
    assert resolve(store, name) == IMAGE.manifest
    assert resolve(store, f"{registry}/lab/tool@{IMAGE.manifest}") == IMAGE.manifest
    assert built(request, tmp_path)
    policy(REJECT, docker={registry: [signed(keys / "bob.pem", **repository)]})
    assert resolve(store, name) == IMAGE.manifest
    both = [signed(keys / f"{n}.pem", **repository) for n in ("ada", "bob")]
    policy(REJECT, docker={registry: both})
    assert resolve(store, name) == IMAGE.manifest
    # Without a word on names a tag has to be signed, and ours is of the repository, as cosign's.
    policy(REJECT, docker={registry: [signed(keys / "ada.pem")]})
    assert "for this name" in refusal(store, name)
    assert resolve(store, f"{registry}/lab/tool@{IMAGE.manifest}") == IMAGE.manifest


def test_a_signature_of_another_repository_or_image_does_not_count(
    store: Path, registry: str, keys: Path
) -> None:
    push(IMAGE, registry, "lab/other", "1")
    push(OTHER, registry, "lab/tool", "owner")
    policy(REJECT, docker={"": [signed(keys / "ada.pem", type="matchRepository")]})
    sign(source(store, f"{registry}/lab/other:1"), IMAGE.manifest, keys / "ada.key")
    assert resolve(store, f"{registry}/lab/other:1") == IMAGE.manifest
    assert "no signature exists" in refusal(store, f"{registry}/lab/tool:1")
    # Its signature under the tag of another image.
    request = source(store, f"{registry}/lab/tool:owner")
    text = cosign.payload(f"{registry}/lab/tool", IMAGE.manifest)
    value = cosign.signed(text, private_key(keys / "ada.key"))
    key = public_key((keys / "ada.pem").read_bytes())
    assert key
    assert cosign.Signature(text, value).identity(IMAGE.manifest, key)
    assert cosign.Signature(text, value).identity(OTHER.manifest, key) is None
    assert cosign.Signature(text + b" ", value).identity(IMAGE.manifest, key) is None
    assert cosign.Signature(text, "no base64").identity(IMAGE.manifest, key) is None
    sign(request, OTHER.manifest, keys / "ada.key")
    assert resolve(store, f"{registry}/lab/tool:owner") == OTHER.manifest


def test_a_signed_index_vouches_for_its_images(store: Path, registry: str, keys: Path) -> None:
    content = index(IMAGE.descriptor())
    put_manifest(content, INDEX, registry, "lab/tool", "all")
    policy(REJECT, docker={registry: [signed(keys / "ada.pem", type="matchRepository")]})
    assert "no signature exists" in refusal(store, f"{registry}/lab/tool:all")
    request = source(store, f"{registry}/lab/tool:all")
    from singbuild_docker.upload import digest_of

    sign(request, digest_of(content), keys / "ada.key")
    assert resolve(store, f"{registry}/lab/tool:all") == IMAGE.manifest


@pytest.mark.parametrize(
    ("scope", "is_trusted"),
    [
        ("{}/lab/tool:1", True),
        ("{}/lab/tool:2", False),
        ("{}/lab/tool", True),
        ("{}/lab", True),
        ("{}", True),
        ("", True),
        ("{}/la", False),
        ("*.0.0.1", True),
        ("other.example", False),
    ],
)
def test_scopes(store: Path, registry: str, scope: str, is_trusted: bool) -> None:
    policy(REJECT, docker={scope.format(registry): [ANY]})
    name = f"{registry}/lab/tool:1"
    assert (resolve(store, name) if is_trusted else refusal(store, name)) is not None
    # The most specific scope counts alone.
    policy(ANY, docker={scope.format(registry): [REJECT], f"{registry}/lab/tool:1": [ANY]})
    assert resolve(store, name)


@pytest.mark.parametrize(
    "requirement",
    [
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"},
        {"type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyPath": "/r"},
        {"type": "sigstoreSigned", "fulcio": {}},
        {"type": "sigstoreSigned"},
        {"type": "sigstoreSigned", "keyPath": "/no/key"},
        {"type": "sigstoreSigned", "keyData": "!"},
        {"type": "sigstoreSigned", "keyData": base64.b64encode(b"no key").decode()},
        {"type": "unheardOf"},
        {},
    ],
)
def test_what_cannot_be_checked_lets_nothing_in(
    store: Path, registry: str, requirement: dict[str, object]
) -> None:
    policy(ANY, docker={registry: [requirement]})
    refusal(store, f"{registry}/lab/tool:1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"default": 1}', '{"default": []}', "[" * 10**5])
def test_a_policy_that_makes_no_sense_lets_nothing_in(
    store: Path, registry: str, text: str
) -> None:
    policy().write_text(text)
    refusal(store, f"{registry}/lab/tool:1")


def test_files_and_engines_have_their_scopes(tmp_path: Path) -> None:
    policy(REJECT, **{"oci-archive": {str(tmp_path): [ANY]}, "docker-daemon": {"": [ANY]}})
    trust.check_file("oci-archive", f"{tmp_path}/a/b.tar")
    trust.check_file("docker-daemon", "")
    for transport, name in (("oci-archive", "/x.tar"), ("docker-archive", f"{tmp_path}/a.tar")):
        with pytest.raises(SourceError):
            trust.check_file(transport, name)


@pytest.mark.parametrize(
    ("wish", "name", "signed_name", "fits"),
    [
        ({"type": "matchExact"}, "h/a:1", "h/a:1", True),
        ({"type": "matchExact"}, "h/a", "h/a:1", False),
        ({"type": "matchExact"}, "h/a:1", f"h/a@sha256:{'0' * 64}", False),
        ({"type": "matchRepository"}, "h:5/a", "h:5/a:1", True),
        ({"type": "matchRepository"}, "h:5/b", "h:5/a:1", False),
        ({"type": "exactReference", "dockerReference": "h/b:1"}, "h/b:1", "h/a:1", True),
        ({"type": "exactRepository", "dockerRepository": "h/b"}, "h/b:1", "h/a:1", True),
        ({"type": "exactRepository", "dockerRepository": "h/c"}, "h/b:1", "h/a:1", False),
    ],
)
def test_names_that_are_signed(
    wish: dict[str, str], name: str, signed_name: str, fits: bool
) -> None:
    host, _, rest = signed_name.partition("/")
    image = (
        Reference(host, rest.partition("@")[0], "", rest.partition("@")[2])
        if "@" in rest
        else Reference(host, rest.partition(":")[0], rest.partition(":")[2])
    )
    assert trust._is_meant(name, {"signedIdentity": wish}, image, Path("p")) is fits
    assert named({"From": "ubuntu"}).tag == "latest"
