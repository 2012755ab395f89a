"""The reader against all that only root can make: owners, devices, capabilities, ACLs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from singbuild.seal import seal
from tests.root.seal_trees import EPOCH, Tree, build, snapshot
from tests.root.test_seal_kernel import MEMORY, SOME, every_kind, trees, workplace
from tests.unit.image_trees import image_snapshot, mke2fs

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
    root = tmp_path / "tree"
    root.mkdir()
    build(tree, root, 0)
    found = image_snapshot(mke2fs(root, tmp_path / "image", "-t", "ext3", "-b", block))
    wanted = snapshot(root)
    for path in tree.specs:
        facts, seen = wanted[b"/" + path], found[b"/" + path]
        assert seen[:4] + seen[6:] == facts[:4] + facts[6:]
