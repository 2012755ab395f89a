"""What goes with a signed push: statements in both of cosign's forms; and the keys that sign."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from singbuild_docker import attestation, keys, oras

from singbuild import HostError
from singbuild.signatures import dsse
from tests.bench.builds import SINGBUILD
from tests.bench.docker_images import INDEX, archive, file, image
from tests.bench.docker_registry import genuine, push, put_manifest
from tests.bench.docker_source import IMAGE, quick, report, source, store
from tests.bench.referrers_registry import registry as with_referrers
from tests.unit import test_provenance as provenance

__all__ = ["quick", "store"]
pytestmark = pytest.mark.usefixtures("quick")
OTHER = image(archive(file("other", b"B")))
KIND = "https://slsa.dev/provenance/v1"
PREDICATE = {"buildDefinition": {"buildType": "urn:x"}}
# `cosign generate-key-pair` of cosign 3 wrote them, with the password "x".
COSIGN_KEY = """\
-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiJYWk1nd3NLS3U5TGV4VE5laVpYM1hiMDhFRFE3bjhZ
bE05dWVzbTBGYjJJPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJEY0ZtUlUzSlg0UVZWalBDeTVaY0xZdUtVbUswam41VyJ9LCJj
aXBoZXJ0ZXh0IjoiblBtQkdOdmMweGcwOUZZbnovdlFrdEtib2VnMHNTWVAwR2ov
Wm5Hdi8zL3QzeFNmVjRRR0poeVluck5BcXhjaHhrVXBrSkpsMnpTOGpxazRRVGpO
T3NhUkpPNldBeTNBK2xoMVBqV1hsdUplWjFCek05YU16M1g3R1MwNHVxZ0Q0UDdJ
dFhPbnVkV25BM0hHdWN3bUhzUE1JSmVqb3NKS1FwUVA3RHEvQmZ3V2R4Tmt0Y2Fm
bjBpY0QvSFJ2S3lCVUxGSUJIM2tXakhyTnc9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""
COSIGN_PUBLIC = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEpWr/+lxzM+QFioYba3Lu3vhbv+Qq
CZpIW9ark4ZU6W+QhntArVzCkjDXCUrU5P0CJQQ4zBRg84gzeSa10tmCLw==
-----END PUBLIC KEY-----
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSIGN_PASSWORD", "x")
    (tmp_path / "cosign.key").write_text(COSIGN_KEY)
    (tmp_path / "cosign.pub").write_text(COSIGN_PUBLIC)
    return tmp_path


@pytest.fixture(params=["tags", "referrers"])
def registry(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry that keeps no list of what refers to a manifest, and one that does."""
    with contextlib.ExitStack() as stack:
        if request.param == "tags":
            name = stack.enter_context(genuine(tmp_path))
        else:
            name = stack.enter_context(with_referrers()).name
        push(IMAGE, name, "lab/tool", "1")
        yield name


def get(registry: str, path: str) -> Any:
    accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
    url = f"http://{registry}/v2/lab/tool/{path}"
    answer = requests.get(url, headers={"Accept": accept}, timeout=60)
    assert answer.ok, answer
    return answer.json()


def referrers(registry: str, digest: str = IMAGE.manifest) -> list[dict[str, Any]]:
    """An image's list of what refers to it: of the API, or under the tag that stands for it."""
    api, tag = f"referrers/{digest}", f"manifests/{digest.replace(':', '-')}"
    result = [status(registry, each) == requests.codes.ok for each in (api, tag)]
    assert result.count(True) == 1
    rows = get(registry, api if result[0] else tag)["manifests"]
    assert isinstance(rows, list)
    return rows


def status(registry: str, path: str) -> int:
    headers = {"Accept": INDEX}
    url = f"http://{registry}/v2/lab/tool/{path}"
    return requests.get(url, headers=headers, timeout=60).status_code


def opened(envelope: dict[str, Any], public: Path) -> dict[str, Any]:
    """A statement, as the reader of signatures in SIFs opens its envelope."""
    text = json.dumps(envelope).encode()
    result = dsse.opened(text, attestation.IN_TOTO, [("ada", dsse.public_key(public))])
    assert result.status == "good", result
    document = json.loads(result.payload)
    assert isinstance(document, dict)
    return document


def test_statements_lie_under_the_classic_tag_and_as_referrers(
    registry: str, store: Path, files: Path
) -> None:
    sign = oras.singbuild_signer(source(store, f"{registry}/lab/tool:1"), files / "cosign.key")
    sign(IMAGE.manifest, {KIND: PREDICATE})
    sign(IMAGE.manifest, {KIND: PREDICATE})  # makes place for the same key's, of the same kind
    (layer,) = get(registry, f"manifests/{IMAGE.manifest.replace(':', '-')}.att")["layers"]
    assert layer["annotations"]["predicateType"] == KIND
    subject = {"sha256": IMAGE.manifest.removeprefix("sha256:")}
    statement = opened(get(registry, f"blobs/{layer['digest']}"), files / "cosign.pub")
    assert (statement["subject"][0]["digest"], statement["predicate"]) == (subject, PREDICATE)
    result = {}
    for entry in referrers(registry):
        assert entry["artifactType"] == attestation.BUNDLE
        document = get(registry, f"manifests/{entry['digest']}")
        assert document["subject"]["digest"] == IMAGE.manifest
        bundle = get(registry, f"blobs/{document['layers'][0]['digest']}")
        assert bundle["mediaType"] == attestation.BUNDLE
        statement = opened(bundle["dsseEnvelope"], files / "cosign.pub")
        assert statement["subject"][0]["digest"] == subject
        result[entry["annotations"]["dev.sigstore.bundle.predicateType"]] = statement["predicate"]
    assert result == {attestation.SIGNED: {}, KIND: PREDICATE}


def verified(registry: str, name: str, *words: str | Path) -> tuple[int, Any]:
    """The exit status of verify, and its JSON."""
    argv = [*SINGBUILD, "verify", "--json", *words, f"docker://{registry}/{name}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_verify_knows_what_is_signed_in_a_registry(registry: str, store: Path, files: Path) -> None:
    place = source(store, f"{registry}/lab/tool:1")
    assert verified(registry, "lab/tool:1", "--signers", files / "cosign.pub")[0] == 10
    oras.singbuild_signer(place, files / "cosign.key")(IMAGE.manifest, {KIND: PREDICATE})
    status, result = verified(registry, "lab/tool:1", "--signers", files / "cosign.pub")
    assert (status, result["digest"], result["missing"]) == (0, IMAGE.manifest, [])
    assert {(s["status"], s["claim"]) for s in result["signatures"]} == {
        ("good", "signed"),
        ("good", f"attested {KIND}"),
    }
    assert len(result["signatures"]) == 4
    bob = str(files / "bob.key")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", bob], check=True)
    words = ["openssl", "pkey", "-in", bob, "-pubout", "-out", str(files / "bob.pem")]
    subprocess.run(words, check=True)
    status, result = verified(registry, "lab/tool:1", "--signers", files / "bob.pem")
    assert (status, {s["status"] for s in result["signatures"]}) == (10, {"unknown"})
    status, result = verified(
        registry, "lab/tool:1", "--signers", files / "cosign.pub", "--signed-by", "bob"
    )
    assert (status, result["missing"]) == (10, ["bob"])


def test_a_signed_push_is_attested_its_provenance_and_both_bills(
    registry: str, files: Path
) -> None:
    words = (*SINGBUILD, "push", "-q", "--sign-key", files / "cosign.key", provenance.image(files))
    argv = (*words, f"oras://{registry}/lab/tool:built")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    bills = ["https://spdx.dev/Document", "https://cyclonedx.org/bom"]
    status, result = verified(registry, "lab/tool:built", "--signers", files / "cosign.pub")
    claims = sorted((each["status"], each["claim"]) for each in result["signatures"])
    kinds = ["signed", *(f"attested {each}" for each in (KIND, *bills))]
    assert (status, claims) == (0, sorted([("good", each) for each in kinds] * 2))
    rows = referrers(registry, done.stdout.strip())
    assert {each["artifactType"] for each in rows} == {attestation.BUNDLE, "application/spdx+json"}
    predicates = {}
    for entry in rows:
        document = get(registry, f"manifests/{entry['digest']}")
        assert document["subject"]["digest"] == done.stdout.strip()
        content = get(registry, f"blobs/{document['layers'][0]['digest']}")
        if entry["artifactType"] == attestation.BUNDLE:
            statement = opened(content["dsseEnvelope"], files / "cosign.pub")
            predicates[statement["predicateType"]] = statement["predicate"]
    assert [each["name"] for each in predicates[bills[1]]["components"]] == ["a", "b"]
    assert predicates[bills[0]]["spdxVersion"] == "SPDX-2.3"
    assert predicates[KIND]["buildDefinition"]["buildType"] == "urn:singbuild:build:1"


def test_a_statement_of_some_megabytes_is_read_and_one_of_many_is_told_of(
    registry: str, store: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = source(store, f"{registry}/lab/tool:1")
    sign = oras.singbuild_signer(place, files / "cosign.key")
    sign(IMAGE.manifest, {KIND: {"packages": "x" * (3 << 20)}})
    status, result = verified(registry, "lab/tool:1", "--signers", files / "cosign.pub")
    claims = [each["claim"] for each in result["signatures"]]
    assert (status, claims.count(f"attested {KIND}"), claims.count("signed")) == (0, 2, 2)
    monkeypatch.setattr(attestation, "LARGEST", 1 << 20)
    assert len(oras.singbuild_signatures(place)[1]) == 2
    assert sum("bytes is not read" in each for each in report(place).warnings) == 2
    monkeypatch.setattr(attestation, "LARGEST", 8 << 20)
    monkeypatch.setattr(attestation, "MOST_BYTES", 7 << 20)
    assert len(oras.singbuild_signatures(place)[1]) == 3


def test_statements_about_another_image_are_bad(registry: str, store: Path, files: Path) -> None:
    push(OTHER, registry, "lab/tool", "2")
    place = source(store, f"{registry}/lab/tool:1")
    oras.singbuild_signer(place, files / "cosign.key")(IMAGE.manifest, {KIND: PREDICATE})
    for ending in ("sig", "att"):
        kind = "application/vnd.oci.image.manifest.v1+json"
        names = [each.manifest.replace(":", "-") for each in (IMAGE, OTHER)]
        content = json.dumps(get(registry, f"manifests/{names[0]}.{ending}")).encode()
        put_manifest(content, kind, registry, "lab/tool", f"{names[1]}.{ending}")
    status, result = verified(registry, "lab/tool:2", "--signers", files / "cosign.pub")
    assert (status, {s["status"] for s in result["signatures"]}) == (10, {"bad"})
    assert len(result["signatures"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"payloadType": 1, "payload": "", "signatures": [{"sig": ""}]}',
        b'{"payloadType": "a", "payload": "=", "signatures": []}',
        b'{"payloadType": "a", "payload": "AAAA", "signatures": {"sig": 1}}',
        b'{"dsseEnvelope": [1]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_envelope_is_no_signature(content: bytes) -> None:
    assert attestation.opened(content, "somewhere") == []


@pytest.mark.parametrize("kind", ["EC", "ed25519", "RSA"])
def test_an_encrypted_pem_of_openssl(files: Path, kind: str) -> None:
    more = ("-pkeyopt", "ec_paramgen_curve:P-256") if kind == "EC" else ()
    words = ["openssl", "genpkey", "-algorithm", kind, *more, "-aes256", "-pass", "pass:x"]
    subprocess.run([*words, "-out", files / "own.key"], check=True, capture_output=True)
    key = keys.private_key(files / "own.key")
    public = key.public_key()
    assert dsse.is_signed(public, b"text", keys.signature(key, b"text"))


@pytest.mark.parametrize("password", ["", "y", None])
def test_another_password_opens_nothing(
    files: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if password is None:
        monkeypatch.delenv("COSIGN_PASSWORD")
    else:
        monkeypatch.setenv("COSIGN_PASSWORD", password)
    with pytest.raises(HostError) as caught:
        keys.private_key(files / "cosign.key")
    assert "COSIGN_PASSWORD" in caught.value.remedy


def changed(files: Path, change: Any) -> Path:
    lines = COSIGN_KEY.splitlines()
    document = json.loads(base64.b64decode("".join(lines[1:-1])))
    change(document)
    text = base64.b64encode(json.dumps(document).encode()).decode()
    path = files / "other.key"
    path.write_text("\n".join([lines[0], text, lines[-1]]))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["kdf"]["params"].update(N=1 << 40),
        lambda it: it["kdf"]["params"].update(N="65536"),
        lambda it: it["kdf"]["params"].update(N=-2),
        lambda it: it["kdf"]["params"].update(r=1 << 30),
        lambda it: it["kdf"].update(name="argon2"),
        lambda it: it["cipher"].update(nonce="AA=="),
        lambda it: it.update(ciphertext=7),
        lambda it: it.clear(),
    ],
)
def test_a_hostile_key_is_an_error_at_once(files: Path, change: Any) -> None:
    with pytest.raises(HostError, match=r"has no private key that can be used|not the password"):
        keys.private_key(changed(files, change))
