"""policy.json's signedBy: GPG's signatures of images, by gpg itself and by skopeo."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import singbuild_docker as backend
from singbuild_docker import simple_signing

from singbuild import SourceError
from tests.bench.docker_images import archive, file, image
from tests.bench.docker_registry import faulty, genuine, push, sends, status
from tests.bench.docker_source import IMAGE, quick, source, store

__all__ = ["quick", "store"]
pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.skipif(not shutil.which("gpg"), reason="needs gpg"),
]
OTHER = image(archive(file("other", b"B")))
ADA, BOB = "ada@lab.example", "bob@lab.example"


class Desk:
    """A registry with an image, keys of two people, and the place of their signatures."""

    def __init__(self, place: Path, registry: str) -> None:
        self.place, self.registry, self.lookaside = place, registry, place / "lookaside"
        config = Path.home() / ".config/containers"
        (config / "registries.d").mkdir(parents=True, exist_ok=True)
        text = f"docker:\n  {registry}:\n    lookaside: file://{self.lookaside}\n"
        (config / "registries.d/lab.yaml").write_text(text)
        self.policy = config / "policy.json"
        for name in (ADA, BOB):
            words = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", name]
            subprocess.run([*words, "ed25519", "sign"], check=True, stderr=subprocess.DEVNULL)

    def key(self, name: str) -> Path:
        path = self.place / f"{name}.gpg"
        done = subprocess.run(["gpg", "--export", name], check=True, capture_output=True)
        path.write_bytes(done.stdout)
        return path

    def want(self, name: str, **more: object) -> None:
        rule = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(self.key(name))} | more
        docker = {"docker": {self.registry: [rule]}}
        self.policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": docker}))

    def signature(self, name: str, digest: str, reference: str, **more: str) -> bytes:
        critical = {
            "type": "atomic container signature",
            "image": {"docker-manifest-digest": digest},
            "identity": {"docker-reference": reference},
        } | more
        text = json.dumps({"critical": critical, "optional": {}}).encode()
        words = ["gpg", "--batch", "--quiet", "--local-user", name, "--sign"]
        return subprocess.run(words, input=text, check=True, capture_output=True).stdout

    def put(self, data: bytes, number: int = 1, digest: str = IMAGE.manifest) -> None:
        place = self.lookaside / f"lab/tool@{digest.replace(':', '=')}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"signature-{number}").write_bytes(data)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "gnupg").mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "gnupg"))
    with genuine(tmp_path) as registry:
        push(IMAGE, registry, "lab/tool", "1")
        yield Desk(tmp_path, registry)
    subprocess.run(["gpgconf", "--kill", "all"], check=True)


def refusal(store: Path, name: str) -> str:
    with pytest.raises(SourceError) as caught:
        backend.singbuild_resolve(source(store, name))
    return caught.value.why


def test_who_signed_with_gpg_is_let_in(store: Path, desk: Desk) -> None:
    name = f"{desk.registry}/lab/tool:1"
    desk.want(ADA)
    assert "no signature exists" in refusal(store, name)
    desk.put(desk.signature(BOB, IMAGE.manifest, name))
    assert "No signature of it is by a key" in refusal(store, name)
    desk.put(desk.signature(ADA, IMAGE.manifest, name), 2)
    assert backend.singbuild_resolve(source(store, name))["digest"] == IMAGE.manifest
    desk.want(BOB)
    assert backend.singbuild_resolve(source(store, name))["digest"] == IMAGE.manifest


def test_what_is_signed_has_to_be_this_image_by_this_name(store: Path, desk: Desk) -> None:
    name = f"{desk.registry}/lab/tool:1"
    desk.want(ADA)
    for data in (
        desk.signature(ADA, OTHER.manifest, name),
        desk.signature(ADA, IMAGE.manifest, f"{desk.registry}/lab/other:1"),
        desk.signature(ADA, IMAGE.manifest, name, type="cosign container image signature"),
        desk.signature(ADA, IMAGE.manifest, name)[:-3],
        b"no signature",
        json.dumps({"critical": {}}).encode(),
    ):
        desk.put(data)
        assert "No signature of it is by a key" in refusal(store, name)
    desk.want(ADA, signedIdentity={"type": "matchRepository"})
    desk.put(desk.signature(ADA, IMAGE.manifest, f"{desk.registry}/lab/tool:2"))
    assert backend.singbuild_resolve(source(store, name))["digest"] == IMAGE.manifest


def test_expired_revoked_and_weak_signatures_do_not_count(desk: Desk) -> None:
    key = desk.key(ADA).read_bytes()
    good = desk.signature(ADA, IMAGE.manifest, "a/b:1")
    assert simple_signing.identity(good, IMAGE.manifest, [key]) == "a/b:1"
    assert simple_signing.identity(good, IMAGE.manifest, []) is None
    words = ["gpg", "--batch", "--quiet", "--local-user", ADA, "--sign"]
    text = subprocess.run(["gpg", "--batch", "-d"], input=good, capture_output=True, check=True)
    for more in (["--digest-algo", "SHA1"], ["--local-user", BOB]):
        done = subprocess.run([*words, *more], input=text.stdout, capture_output=True, check=True)
        assert simple_signing.identity(done.stdout, IMAGE.manifest, [key]) is None
    rows = subprocess.run(
        ["gpg", "--list-keys", "--with-colons", ADA], check=True, capture_output=True, text=True
    ).stdout
    fingerprint = next(row.split(":")[9] for row in rows.split("\n") if row.startswith("fpr"))
    certificate = desk.place / f"gnupg/openpgp-revocs.d/{fingerprint}.rev"
    revocation = certificate.read_text().replace(":-----BEGIN", "-----BEGIN")
    subprocess.run(["gpg", "--batch", "-q", "--import"], input=revocation.encode(), check=True)
    revoked = desk.key(ADA).read_bytes()
    assert simple_signing.identity(good, IMAGE.manifest, [revoked]) is None


def test_signatures_of_a_web_server(store: Path, desk: Desk) -> None:
    name = f"{desk.registry}/lab/tool:1"
    desk.want(ADA)
    with faulty() as server:
        rows = f"docker:\n  {desk.registry}:\n    lookaside: http://{server.name}/sigs\n"
        (desk.policy.parent / "registries.d/lab.yaml").write_text(rows)
        place = f"/sigs/lab/tool@{IMAGE.manifest.replace(':', '=')}/signature-"
        assert "no signature exists" in refusal(store, name)
        signature = desk.signature(ADA, IMAGE.manifest, name)
        server.behaviours[f"{place}1"] = [sends(desk.signature(BOB, IMAGE.manifest, name))]
        assert "No signature of it is by a key" in refusal(store, name)
        server.behaviours[f"{place}2"] = [sends(signature)]
        assert backend.singbuild_resolve(source(store, name))["digest"] == IMAGE.manifest
        # What was taken once is not taken when it is no longer there, or the server fails.
        for behaviour in (status(404), status(500), sends(b"x" * (5 << 20)), sends(signature[:-3])):
            server.behaviours[f"{place}2"] = [behaviour]
            with pytest.raises(SourceError):
                backend.singbuild_resolve(source(store, name))


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
def test_what_skopeo_signs_is_let_in(store: Path, desk: Desk) -> None:
    name = f"{desk.registry}/lab/tool:1"
    manifest = desk.place / "manifest.json"
    manifest.write_bytes(
        subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"],
            check=True,
            capture_output=True,
        ).stdout
    )
    out = desk.place / "signature"
    words = ["skopeo", "standalone-sign", str(manifest), name, ADA, "--output", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    desk.put(out.read_bytes())
    desk.want(ADA)
    assert backend.singbuild_resolve(source(store, name))["digest"] == IMAGE.manifest


@pytest.mark.parametrize("text", ["- 1", "docker: 3", "docker:\n  a: 3", "{", "default-docker: x"])
def test_a_broken_configuration_lets_nothing_in(store: Path, desk: Desk, text: str) -> None:
    desk.want(ADA)
    (Path.home() / ".config/containers/registries.d/z.yaml").write_text(text)
    with pytest.raises(SourceError, match="is no configuration of signatures"):
        backend.singbuild_resolve(source(store, f"{desk.registry}/lab/tool:1"))
