"""Registries and images that do not tell the truth are refused, by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.bench.docker_images import (
    INDEX,
    archive,
    described,
    file,
    image,
    sha256,
)
from tests.bench.docker_registry import (
    Faulty,
    sends,
)
from tests.bench.docker_source import (
    IMAGE,
    LOWER,
    OWNER,
    built,
    fails,
    quick,
    server,
    source,
    store,
)

__all__ = ["quick", "server", "store"]


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
        "More than 8,388,608 bytes are not taken": about
        | {"config": about["config"] | {"size": (8 << 20) + 1}},
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
    message = fails(source(store, f"{server.name}/x@{IMAGE.manifest}"), tmp_path)
    assert "wrong SHA-256" in message


@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_of_other_bytes_is_refused(
    server: Faulty, store: Path, tmp_path: Path, place: int
) -> None:
    other = server.blobs[IMAGE.layers[place]]
    server.behaviours[IMAGE.layers[place]] = [sends(other[:-9] + b"different")]
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "wrong SHA-256" in message or "damaged" in message
    assert not (store / IMAGE.layers[place].removeprefix("sha256:")).exists()


def test_a_layer_whose_archive_is_another_is_refused_by_name(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    about = json.loads(IMAGE.blobs[IMAGE.config])
    about["rootfs"]["diff_ids"][1] = sha256(b"other")
    text = json.dumps(about).encode()
    layered = IMAGE.changed("config", described(text, "application/json"))
    layered.blobs[sha256(text)] = text
    server.add(layered)
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert f"layer {IMAGE.layers[1]}: its archive has the wrong SHA-256" in message


def test_a_hostile_entry_is_refused_with_its_name_and_layer(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    layered = image(LOWER, archive(file("../evil")))
    server.add(layered)
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert message.startswith(f"layer {layered.layers[1]}: ../evil: cannot be unpacked")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("packing", ["+gzip", "+zstd"])
def test_a_bomb_is_refused(
    server: Faulty, store: Path, tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from singbuild import compression

    monkeypatch.setattr(compression, "RATIO_FROM", 1 << 20)
    server.add(image(archive(file("zeros", bytes(30 << 20), **OWNER)), packing=packing))
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert "SINGBUILD_UNPACK_RATIO" in message
    monkeypatch.setenv("SINGBUILD_UNPACK_RATIO", "100000")
    assert built(source(store, f"{server.name}/x"), tmp_path) == ["zeros"]
