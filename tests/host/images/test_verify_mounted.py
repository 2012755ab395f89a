"""``verify`` after an image was in use: reading leaves no trace, writing is told from damage."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from singbuild.errors import ImageError
from singbuild.ext3.writer.seal import seal
from singbuild.images.verification import verify
from tests.bench.image_trees import sample_tree
from tests.bench.seal_trees import EPOCH
from tests.host.images.test_seal_kernel import in_mount

pytestmark = pytest.mark.root


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = sample_tree(tmp_path / "tree")
    (tree / ".singularity.d").mkdir()
    (tree / ".singularity.d/manifest").touch()
    return seal(tree, tmp_path / "image", epoch=EPOCH, free=4 << 20).path


def test_reading_through_the_kernel_leaves_no_trace(image: Path, tmp_path: Path) -> None:
    in_mount(image, tmp_path, "ro", "cat $M/etc/hosts; ls $M/many | wc -l")
    verify(image)


@pytest.mark.skipif(not shutil.which("fuse2fs"), reason="needs fuse2fs")
def test_reading_through_fuse_leaves_no_trace(image: Path, tmp_path: Path) -> None:
    mount = tmp_path / "fuse"
    mount.mkdir()
    subprocess.run(["fuse2fs", "-o", "ro", image, mount], check=True, capture_output=True)
    try:
        assert (mount / "etc/hosts").read_text().startswith("127.0.0.1")
    finally:
        subprocess.run(["umount", mount], check=True)
    verify(image)


@pytest.mark.parametrize(
    ("script", "where"),
    [
        ("echo more >> $M/etc/hosts", "/etc/hosts"),
        ("touch -h -d @5 $M/link", "/link"),
        ("rm $M/many/file-0300*", "/many"),
        ("chmod 600 $M/large", "/large"),
        ("mkdir $M/zzz", "/"),
        ("true", "the superblock"),
    ],
)
def test_a_change_names_the_first_path_that_differs(
    image: Path, tmp_path: Path, script: str, where: str
) -> None:
    in_mount(image, tmp_path, "rw", script)
    with pytest.raises(ImageError, match="was changed since it was built") as caught:
        verify(image)
    assert f"first at {where}" in caught.value.what
