"""What a store notes of tags; documents of strangers, and helper programs, that are not as said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from singbuild_docker import attestation, cosign, credentials
from singbuild_docker.archive import OciLayout
from singbuild_docker.image import Store

from singbuild import SourceError
from singbuild.testing.engine import Recorder
from tests.bench.singrun_images import ROOT

LAYER = {
    "mediaType": cosign.PAYLOAD,
    "digest": f"sha256:{'0' * 64}",
    "size": 9,
    "annotations": {cosign.ANNOTATION: "c2lnbmVk"},
}


def test_several_builds_note_one_tag_at_the_same_time(tmp_path: Path) -> None:
    store = Store(tmp_path, Recorder())

    def note(_number: int) -> None:
        for _ in range(100):
            store.remember("h.example/x:1", "0" * 64)

    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(note, range(8))] == [None] * 8
    assert store.recall("h.example/x:1") == "0" * 64
    assert len([*(tmp_path / "tags").iterdir()]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:../../victim"},
        {"digest": 5},
        {"size": True},
        {"size": 0},
        {"annotations": ["x"]},
        {"annotations": "x"},
        {"annotations": {cosign.ANNOTATION: 5}},
        {"mediaType": ["x"]},
    ],
)
def test_a_signature_that_is_not_described_is_passed_over(change: dict[str, Any]) -> None:
    assert cosign.listed({"layers": [LAYER, LAYER | change, 5]}) == [
        (LAYER["digest"], 9, "c2lnbmVk")
    ]


@pytest.mark.parametrize("value", ["é", "x", "c2lnbmVk"])
def test_a_signature_in_no_form_is_by_nobody(value: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert cosign.Signature(b"{}", value).identity("sha256:0", key) is None


@pytest.mark.parametrize("kind", ["\ud800", 5, ["x"], None])
def test_an_envelope_of_no_type_holds_nothing(kind: object) -> None:
    signatures = [{"sig": "c2lnbmVk"}]
    document = {"payloadType": kind, "payload": "e30=", "signatures": signatures}
    assert attestation.opened(json.dumps(document).encode(), "place") == []
    document["payloadType"] = attestation.IN_TOTO
    assert len(attestation.opened(json.dumps(document).encode(), "place")) == 1


@pytest.mark.parametrize("annotations", [[1], "x", 5, None, {}])
def test_an_entry_with_strange_annotations_has_no_tag(tmp_path: Path, annotations: object) -> None:
    index = {"manifests": [{"annotations": annotations}]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="there is no such image in the layout"):
        OciLayout(tmp_path, "1.0", Store(tmp_path, Recorder())).image_for("x86_64")


def test_a_helper_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "nobody-has-it"}')
    done = subprocess.run(
        [sys.executable, "-m", "singbuild", "logout", "127.0.0.1:1"],
        env=os.environ | {"DOCKER_CONFIG": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "docker-credential-nobody-has-it cannot be used" in done.stderr
    assert "config.json" in done.stderr
    assert "UserWarning" not in done.stderr


@pytest.mark.parametrize(
    "settings", [{"credsStore": "nobody-has-it"}, {"auths": [5]}, {"credHelpers": [None]}]
)
def test_a_list_of_registries_outlives_settings_that_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: object
) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert credentials.servers(Recorder()) == []
