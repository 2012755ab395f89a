"""Images from registries on loopback: what comes of them, and what is not fetched again."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import singbuild_docker as backend

from singbuild import Rootfs
from tests.bench.docker_images import (
    INDEX,
    archive,
    described,
    file,
    image,
    index,
    sha256,
)
from tests.bench.docker_registry import (
    Faulty,
    Handler,
    genuine,
    proper,
    push,
    put_manifest,
)
from tests.bench.docker_source import (
    FILES,
    IMAGE,
    LOWER,
    OWNER,
    UPPER,
    built,
    fails,
    quick,
    report,
    server,
    source,
    store,
)

__all__ = ["quick", "server", "store"]


def test_an_image_of_a_genuine_registry(store: Path, tmp_path: Path) -> None:
    with genuine(tmp_path) as name:
        push(IMAGE, name, "ada/tool", "1")
        request = source(store, f"{name}/ada/tool:1")
        pins = backend.singbuild_resolve(request)
        assert pins["digest"] == IMAGE.manifest
        assert pins["config"] == IMAGE.config
        assert [layer["digest"] for layer in pins["layers"]] == IMAGE.layers
        assert pins["epoch"] == 1_600_000_000
        assert built(request, tmp_path) == FILES
        by_digest = source(store, f"{name}/ada/tool@{IMAGE.manifest}")
        assert built(by_digest, tmp_path) == FILES
    answer = backend.singbuild_defaults(request, pins, Rootfs(tmp_path, request.report))
    assert answer.environment == {"A": "1"}
    assert answer.runscript == '#!/bin/sh\nexec /a "$@"\n'


@pytest.mark.parametrize("packing", ["", "+gzip", "+zstd"])
def test_layers_may_be_packed_in_three_ways(
    server: Faulty, store: Path, tmp_path: Path, packing: str
) -> None:
    server.add(image(LOWER, UPPER, packing=packing))
    request = source(store, f"{server.name}/x")
    assert built(request, tmp_path) == FILES
    assert report(request).lines[0].startswith("Downloading layer: sha256:")


def test_layers_may_have_many_members_or_frames(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    from tests.bench.docker_images import PACK

    for packing in ("+gzip", "+zstd"):
        pack = PACK[packing]
        content = b"".join(pack(LOWER[at : at + 9999]) for at in range(0, len(LOWER), 9999))
        about = json.loads(IMAGE.blobs[IMAGE.manifest])
        kind = f"application/vnd.oci.image.layer.v1.tar{packing}"
        about["layers"][0] = described(content, kind)
        changed = IMAGE.remade(json.dumps(about).encode())
        changed.blobs[sha256(content)] = content
        server.add(changed)
        assert built(source(store, f"{server.name}/x"), tmp_path) == FILES


def test_an_index_is_asked_for_the_machine(store: Path, tmp_path: Path) -> None:
    arm = image(archive(file("arm", **OWNER)), arch="arm64")
    old = image(archive(file("v6", **OWNER)), arch="arm")
    new = image(archive(file("v7", **OWNER)), arch="arm")
    with genuine(tmp_path) as name:
        for tag, each in {"a": IMAGE, "b": arm, "c": old, "d": new}.items():
            push(each, name, "x", tag)
        listed = index(
            arm.descriptor(os="linux", architecture="arm64", variant="v8"),
            IMAGE.descriptor(os="windows", architecture="amd64"),
            arm.descriptor(os="linux", architecture="amd64", variant="v3"),
            IMAGE.descriptor(os="linux", architecture="amd64"),
            old.descriptor(os="linux", architecture="arm", variant="v6"),
            new.descriptor(os="linux", architecture="arm", variant="v7"),
            arm.descriptor(os="unknown", architecture="unknown"),
        )
        put_manifest(listed, INDEX, name, "x", "multi")
        for arch, files in {
            "x86_64": FILES,
            "aarch64": ["arm"],
            "armv7l": ["v7"],
            "armv6l": ["v6"],
        }.items():
            assert built(source(store, f"{name}/x:multi", arch), tmp_path) == files
        message = fails(source(store, f"{name}/x:multi", "s390x"), tmp_path)
        assert "no image for linux/s390x" in message
        assert "linux/arm64/v8" in message
        message = fails(source(store, f"{name}/x:b"), tmp_path)
        assert "is for linux/arm64, not for linux/amd64" in message


def test_a_second_build_fetches_no_layer_again(server: Faulty, store: Path, tmp_path: Path) -> None:
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    request = source(store, f"{server.name}/x")
    assert built(request, tmp_path) == FILES
    assert len(server.requests_to("/blobs/")) == 3
    assert report(request).lines[0].startswith("Using cached layer: ")


def test_builds_at_the_same_time_fetch_each_layer_once(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        proper(handler)

    server.behaviours[IMAGE.layers[0]] = [slow]
    results: list[list[str]] = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    threads = [
        threading.Thread(
            target=lambda n=number: results.append(
                built(source(store, f"{server.name}/x"), tmp_path / str(n))
            )
        )
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [FILES] * 3
    assert len(server.requests_to("/blobs/")) == 3


def test_a_damaged_file_of_the_store_is_fetched_again(
    server: Faulty, store: Path, tmp_path: Path
) -> None:
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    layer = store / IMAGE.layers[0].removeprefix("sha256:")
    layer.write_bytes(b"damage" + layer.read_bytes()[6:])
    request = source(store, f"{server.name}/x")
    assert built(request, tmp_path) == FILES
    assert "is damaged and is fetched again" in report(request).warnings[0]


def test_offline_the_store_is_all_there_is(
    server: Faulty, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    count = len(server.requests)
    monkeypatch.setenv("SINGBUILD_OFFLINE", "1")
    assert built(source(store, f"{server.name}/x"), tmp_path) == FILES
    message = fails(source(store, f"{server.name}/x:other"), tmp_path)
    assert "SINGBUILD_OFFLINE is set" in message
    (store / IMAGE.layers[1].removeprefix("sha256:")).unlink()
    message = fails(source(store, f"{server.name}/x"), tmp_path)
    assert IMAGE.layers[1] in message
    assert len(server.requests) == count


def test_a_lock_is_kept_to_when_the_tag_moves(server: Faulty, store: Path, tmp_path: Path) -> None:
    first = source(store, f"{server.name}/x")
    pins = backend.singbuild_resolve(first)
    server.add(image(archive(file("moved", **OWNER))))
    assert built(first, tmp_path) == ["moved"]
    locked_source = replace(first, locked=pins)
    assert backend.singbuild_resolve(locked_source) == pins
    assert built(locked_source, tmp_path) == FILES
