"""A container image with a layer for each stage of its build, as others unpack it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from singbuild.file_tree import FileTree
from singbuild.formats import loading
from singbuild.images import stage_layers
from tests.bench.builds import SINGBUILD
from tests.bench.docker_registry import genuine

pytestmark = pytest.mark.root
BASE = """Bootstrap: busybox
%post
    cd /
    mkdir -p base/gone/deep base/becomes-file base/quiet
    echo same > base/same
    echo one > base/linked
    ln base/linked base/other
    echo three > base/apart
    ln base/apart base/joined
    echo x > base/gone/deep/file
    echo x > base/becomes-file/inside
    echo x > base/becomes-directory
    ln -s same base/link
    truncate -s 100000 base/hole
    echo "a very last line" >> base/hole
    chown 12:34 base/same
"""
RECIPE = """Bootstrap: localimage
From: base.img
%post
    rm -r /base/gone /base/becomes-file /base/becomes-directory /base/joined /base/link
    echo file > /base/becomes-file
    mkdir /base/becomes-directory
    echo x > /base/becomes-directory/inside
    ln /base/other /base/third
    ln -s apart /base/link
    chmod 700 /base/quiet
    echo VERSION > /version
%runscript
    echo hello
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "registry").mkdir()
    with genuine(tmp_path / "registry") as name:
        yield name


def singbuild(place: Path, *words: str | Path) -> str:
    environment = os.environ | {
        "HOME": str(place),
        "SINGBUILD_CACHEDIR": str(place / "cache"),
        "SINGBUILD_TMPDIR": str(place),
        "XDG_STATE_HOME": str(place),
    }
    done = subprocess.run(
        [*SINGBUILD, *words], env=environment, cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def built(place: Path, version: str) -> Path:
    if not (place / "base.img").exists():
        (place / "base.def").write_text(BASE)
        singbuild(place, "build", "base.def", "base.img")
    (place / "r.def").write_text(RECIPE.replace("VERSION", version))
    singbuild(place, "build", "--force", "r.def", f"{version}.img")
    return place / f"{version}.img"


def manifest(registry: str, name: str) -> dict[str, Any]:
    words = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/{name}"]
    return dict(json.loads(subprocess.run(words, capture_output=True, check=True).stdout))


def unpacked(registry: str, name: str, place: Path) -> list[tuple[object, ...]]:
    """Return all that umoci unpacks of an image."""
    layout, bundle = place / f"{name.replace(':', '-')}-layout", place / name.replace(":", "-")
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    subprocess.run([*copy, f"docker://{registry}/{name}", f"oci:{layout}:x"], check=True)
    unpack: list[str | Path] = ["umoci", "unpack", "--image", f"{layout}:x", bundle]
    subprocess.run(unpack, check=True, capture_output=True)
    return listing(bundle / "rootfs")


def listing(root: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    groups: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(root))
        first = groups.setdefault(status.st_ino, name)
        content = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        about = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime))
        rows.append((name, *about, content, first, path.is_dir() or status.st_nlink))
    return rows


def test_the_next_version_shares_the_layers_of_its_stages(registry: str, tmp_path: Path) -> None:
    for version in ("one", "two"):
        image = built(tmp_path, version)
        singbuild(tmp_path, "push", "-q", "--stages", image, f"docker://{registry}/tool:{version}")
    first, second = (manifest(registry, f"tool:{version}")["layers"] for version in ("one", "two"))
    assert len(first) == len(second) > 1
    assert first[0] == second[0]
    assert first[-1] != second[-1]
    assert first[-1]["size"] < first[0]["size"] / 4, first
    singbuild(tmp_path, "push", "-q", tmp_path / "one.img", f"docker://{registry}/tool:whole")
    assert unpacked(registry, "tool:one", tmp_path) == unpacked(registry, "tool:whole", tmp_path)


def test_an_image_whose_stages_are_gone_is_one_layer(registry: str, tmp_path: Path) -> None:
    image = built(tmp_path, "one")
    singbuild(tmp_path, "cache", "clean")
    output = singbuild(tmp_path, "push", "--stages", image, f"docker://{registry}/tool:one")
    assert "sent as one layer" in output
    assert len(manifest(registry, "tool:one")["layers"]) == 1


def test_a_file_has_no_stages(registry: str, tmp_path: Path) -> None:
    image = built(tmp_path, "one")
    words: list[str | Path] = [*SINGBUILD, "push", "--stages", image, f"oras://{registry}/tool:one"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "no layers of stages" in done.stderr


def test_equal_trees_make_an_empty_layer(tmp_path: Path) -> None:
    image = built(tmp_path, "one")
    with loading.opened(image) as tree, loading.opened(image) as other:
        assert not b"".join(changed(tree, other)).strip(b"\0")


def changed(below: FileTree, tree: FileTree) -> Iterator[bytes]:
    return stage_layers.changes(below, tree, lambda _: False)
