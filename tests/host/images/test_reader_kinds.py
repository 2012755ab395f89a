"""The reader against all that only root can make: owners, devices, capabilities, ACLs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given

from singbuild.ext3.writer.seal import seal
from singbuild.formats.loading import opened
from singbuild.tree.scratch import mounted
from tests.bench import seal_trees
from tests.bench.image_trees import image_snapshot, mke2fs
from tests.bench.seal_trees import EPOCH, Spec, Tree, build, snapshot
from tests.host.images.test_seal_kernel import (
    CAPABILITY,
    MEMORY,
    SOME,
    every_kind,
    trees,
    workplace,
)

NOBODY = 0xFFFFFFFF
pytestmark = pytest.mark.root


@SOME
@given(trees())
def test_a_random_tree_of_every_kind_is_read_back_as_it_was(tree: Tree) -> None:
    with workplace(MEMORY) as place:
        root = place / "tree"
        root.mkdir()
        build(tree, root, 0)
        image = seal(root, place / "image", epoch=EPOCH).path
        assert image_snapshot(image) == snapshot(root, epoch=EPOCH)


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_devices_capabilities_and_acls_as_mke2fs_writes_them(tmp_path: Path, block: str) -> None:
    tree = every_kind()
    tree.links = {}  # mke2fs splits symbolic links with several names
    acl = seal_trees.acl(
        (1, 6, NOBODY), (2, 7, 70_000), (4, 4, NOBODY), (16, 7, NOBODY), (32, 4, NOBODY)
    )
    attributes = (("system.posix_acl_access", acl), ("security.capability", CAPABILITY))
    tree.specs[b"acl"] = Spec(stat.S_IFREG, mode=0o674, attributes=attributes)
    root = tmp_path / "tree"
    root.mkdir()
    build(tree, root, 0)
    result = image_snapshot(mke2fs(root, tmp_path / "image", "-t", "ext3", "-b", block))
    expected = snapshot(root)
    for path in tree.specs:
        facts, row = expected[b"/" + path], result[b"/" + path]
        assert row[:4] + row[6:] == facts[:4] + facts[6:]


def test_holes_of_a_host_with_smaller_blocks_are_known(tmp_path: Path) -> None:
    """There data may begin within a block of ours, which begins with a hole."""
    (tmp_path / "empty").mkdir()
    image = mke2fs(tmp_path / "empty", tmp_path / "image", "-t", "ext3", "-b", "1024")
    content = bytes(5 << 10) + b"x" * 1024 + bytes(1 << 20)
    with mounted(image, tmp_path / "mount") as place:
        with (place / "file").open("wb") as file:
            file.seek(5 << 10)
            file.write(b"x" * 1024)
            file.truncate(len(content))
        with opened(place) as tree:
            entry = tree.find("file")
            assert entry
            assert tree.segments(entry) == [(4096, 4096)]
            assert b"".join(tree.stream(entry)) == content
        sealed = seal(place, tmp_path / "sealed", epoch=EPOCH).path
    with opened(sealed) as tree:
        entry = tree.find("file")
        assert entry
        assert (tree.segments(entry), tree.read(entry)) == ([(4096, 4096)], content)
