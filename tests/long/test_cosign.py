"""Signatures in registries: the real cosign checks ours, ours checks cosign's, skopeo checks both.

Both come from a Debian sid; skopeo, whose library podman has too, reads the same policy.json.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import debian_hosts as hosts
from tests.bench import installation
from tests.bench.builds import SINGBUILD
from tests.bench.docker_images import archive, file, image
from tests.bench.docker_registry import genuine, push
from tests.bench.host import shared_directory
from tests.bench.referrers_registry import registry as with_referrers
from tests.bench.singrun_images import ROOT

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]
TOOL = image(archive(file("a", b"A")))
NO_LOG = "--insecure-ignore-tlog=true --allow-http-registry"


class Desk:
    """A registry, and a directory with ada's keys that cosign sees at /src."""

    def __init__(self, place: Path, registry: str) -> None:
        self.place, self.registry = place, registry
        curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        make = ["openssl", "genpkey", *curve, "-out", str(place / "ada.key")]
        subprocess.run(make, check=True, stderr=subprocess.DEVNULL)
        pair: list[str | Path] = ["-in", place / "ada.key", "-pubout", "-out", place / "ada.pem"]
        subprocess.run(["openssl", "pkey", *pair], check=True)
        (place / "out").mkdir()
        (place / "registries.d").mkdir()
        text = f"docker:\n  {registry}:\n    use-sigstore-attachments: true\n"
        (place / "registries.d/one.yaml").write_text(text)

    def cosign(self, script: str) -> subprocess.CompletedProcess[str]:
        words = ("sh", "-ec", f"cd /src/out\n{script}")
        return hosts.call(
            hosts.root("peers"), *words, source=self.place, COSIGN_PASSWORD="x", R=self.registry
        )

    def policy(self, key: Path) -> Path:
        identity = {"type": "matchRepository"}
        data = base64.b64encode(key.read_bytes()).decode()
        rule = {"type": "sigstoreSigned", "keyData": data, "signedIdentity": identity}
        path = self.place / "home/.config/containers/policy.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        docker = {self.registry: [rule]}
        text = {"default": [{"type": "reject"}], "transports": {"docker": docker}}
        path.write_text(json.dumps(text))
        return path

    def without_policy(self) -> None:
        (self.place / "home/.config/containers/policy.json").unlink(missing_ok=True)

    def ours(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        argv: list[str | Path] = [installation.programs() / "singbuild", *words]
        env = os.environ | {"HOME": f"{self.place}/home", "COSIGN_PASSWORD": "x"}
        return subprocess.run(
            argv, capture_output=True, text=True, env=env, cwd=self.place, check=False
        )

    def skopeo(self, name: str, key: Path) -> bool:
        """Whether skopeo takes an image by a policy that asks for this key."""
        policy = self.policy(key).relative_to(self.place)
        place = f"--policy /src/{policy} --registries.d /src/registries.d"
        script = f"skopeo {place} copy --src-tls-verify=false docker://$R/{name} dir:/tmp/copy"
        done = self.cosign(script)
        assert done.returncode == 0 or "rejected" in done.stderr, done
        return done.returncode == 0


@pytest.fixture(scope="module", params=["tags", "referrers"])
def desk(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Desk]:
    """With a registry that keeps no list of what refers to a manifest, and with one that does."""
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(shared_directory())
        if request.param == "tags":
            registry = stack.enter_context(genuine(tmp_path_factory.mktemp("registry")))
        else:
            registry = stack.enter_context(with_referrers()).name
        yield Desk(place, registry)


def test_cosign_and_skopeo_take_what_ours_signed(desk: Desk) -> None:
    shutil.copy(ROOT / "recipes/busybox.def", desk.place / "hello.def")
    assert desk.ours("-q", "hello.def", "hello.img").returncode == 0
    for name in ("docker", "oras"):
        uri = f"{name}://{desk.registry}/lab/{name}:1"
        pushed = desk.ours("push", "-q", "--sign-key", "ada.key", "hello.img", uri)
        assert pushed.returncode == 0, pushed
        verify = f"cosign verify --key /src/ada.pem {NO_LOG} $R/lab/{name}:1"
        for form in ("true", "false"):  # bundles, and the classic tags
            done = desk.cosign(f"{verify} --new-bundle-format={form}")
            assert (done.returncode, pushed.stdout.strip() in done.stdout) == (0, True), done
            for kind in ("slsaprovenance1", "spdxjson", "cyclonedx"):
                attested = verify.replace("cosign verify", "cosign verify-attestation")
                done = desk.cosign(f"{attested} --new-bundle-format={form} --type {kind}")
                assert (done.returncode, "in-toto" in done.stdout) == (0, True), done
    key = desk.place / "ada.pem"
    assert desk.skopeo("lab/docker:1", key)
    pulled = desk.ours("pull", "-q", f"docker://{desk.registry}/lab/docker:1", "back.img")
    assert pulled.returncode == 0, pulled
    assert (
        desk.ours("push", "-q", "hello.img", f"docker://{desk.registry}/lab/un:1").returncode == 0
    )
    assert not desk.skopeo("lab/un:1", key)
    refused = desk.ours("pull", "-q", f"docker://{desk.registry}/lab/un:1", "un.img")
    assert (refused.returncode, (desk.place / "un.img").exists()) == (6, False), refused


def test_ours_and_skopeo_take_what_cosign_signed(desk: Desk) -> None:
    push(TOOL, desk.registry, "lab/theirs", "1")
    key = desk.place / "out/cosign.pub"
    done = desk.cosign(
        "cosign generate-key-pair\n"
        "cosign sign --key cosign.key --tlog-upload=false --use-signing-config=false "
        f"--new-bundle-format=false --allow-http-registry -y $R/lab/theirs@{TOOL.manifest}"
    )
    assert done.returncode == 0, done
    uri = f"docker://{desk.registry}/lab/theirs:1"
    assert desk.skopeo("lab/theirs:1", key)
    pulled = desk.ours("pull", "-q", uri, "theirs.img")
    assert pulled.returncode == 0, pulled
    assert not desk.skopeo("lab/theirs:1", desk.place / "ada.pem")
    refused = desk.ours("pull", "-q", "--force", uri, "theirs.img")
    assert (refused.returncode, "policy" in refused.stdout + refused.stderr) == (6, True), refused


@pytest.mark.parametrize("form", ["true", "false"])
def test_ours_knows_what_cosign_signed_and_attested(desk: Desk, form: str) -> None:
    desk.without_policy()
    name = f"lab/attested-{form}"
    push(TOOL, desk.registry, name, "1")
    more = f"--new-bundle-format={form} --tlog-upload=false --use-signing-config=false"
    place = f"--key cosign.key {more} --allow-http-registry -y $R/{name}@{TOOL.manifest}"
    done = desk.cosign(
        "[ -e cosign.key ] || cosign generate-key-pair\n"
        "echo '{}' > predicate.json\n"
        f"cosign sign {place}\n"
        f"cosign attest --type slsaprovenance1 --predicate predicate.json {place}\n"
    )
    assert done.returncode == 0, done
    uri = f"docker://{desk.registry}/{name}:1"
    done = desk.ours("verify", "--json", "--signers", "out/cosign.pub", uri)
    result = json.loads(done.stdout)
    assert (done.returncode, result["digest"]) == (0, TOOL.manifest), done
    assert sorted((s["status"], s["claim"]) for s in result["signatures"]) == [
        ("good", "attested https://slsa.dev/provenance/v1"),
        ("good", "signed"),
    ]
    assert desk.ours("verify", "--signers", "ada.pem", uri).returncode == 10


def test_ours_signs_with_cosigns_own_key(desk: Desk) -> None:
    done = desk.cosign("[ -e cosign.key ] || cosign generate-key-pair")
    assert done.returncode == 0, done
    (desk.place / "empty.def").write_text("Bootstrap: busybox\n")
    assert desk.ours("-q", "--force", "empty.def", "empty.img").returncode == 0
    uri = f"oras://{desk.registry}/lab/own:1"
    words = [*SINGBUILD, "push", "-q", "--sign-key", "out/cosign.key", "empty.img", uri]
    env = os.environ | {"COSIGN_PASSWORD": "x"}
    pushed = subprocess.run(  # with the packages of the tests, of which PyNaCl is one
        words, capture_output=True, text=True, env=env, cwd=desk.place, check=False
    )
    assert pushed.returncode == 0, pushed
    done = desk.cosign(f"cosign verify --key cosign.pub {NO_LOG} $R/lab/own:1")
    assert (done.returncode, pushed.stdout.strip() in done.stdout) == (0, True), done
