"""The reader: images of ours and of e2fsprogs, read back; damaged ones refused with a place."""

from __future__ import annotations

import os
import random
import shutil
import struct
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singbuild.errors import ImageError
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.inventory import inventory
from singbuild.ext3.writer.seal import seal
from singbuild.file_tree import DamagedImage
from tests.bench.image_trees import EPOCH, REVISION_0, image_snapshot, mke2fs, sample_tree, trees
from tests.bench.seal_trees import Tree, build, snapshot

needs_mke2fs = pytest.mark.skipif(not shutil.which("debugfs"), reason="needs e2fsprogs")
SOME = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
HEADER_2X = b"#!/usr/bin/env run-singularity\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_tree(tmp_path_factory.mktemp("reader") / "tree", files=200)


@pytest.fixture(scope="module")
def sealed(tree: Path) -> Path:
    return seal(tree, tree.parent / "image", epoch=2**33).path


def patched(source: Path, target: Path, offset: int, data: bytes) -> Path:
    """A copy with other bytes at a place."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return target


def where(image: Path) -> str:
    """The place that the error of reading everything names."""
    with pytest.raises(DamagedImage) as caught:
        image_snapshot(image)
    return caught.value.where


@SOME
@given(trees())
def test_a_random_tree_is_read_back_as_it_was(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "tree")
        root.mkdir()
        build(tree, root, 0)
        image = seal(root, Path(place, "image"), epoch=EPOCH).path
        assert image_snapshot(image) == snapshot(root, epoch=EPOCH)
        with Image(image) as opened:
            names = list(dict.fromkeys(entry.inode.number for entry in opened.walk()))
        assert names == [node.number for node in inventory(root, EPOCH)]


@needs_mke2fs
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext3"),
        ("-t", "ext3", "-b", "1024", "-I", "128"),
        ("-t", "ext2", "-b", "2048", "-O", "^dir_index"),
        ("-t", "ext3", "-b", "1024", "-O", "^filetype"),
        ("-t", "ext3", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"),
        ("-t", "ext2", "-b", "1024", "-O", "^sparse_super,^resize_inode", "-g", "2048"),
        ("-t", "ext2", "-b", "1024", *REVISION_0),
    ],
)
def test_images_of_mke2fs_in_many_shapes(
    tree: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tree, source, symlinks=True, ignore=shutil.ignore_patterns("fifo", "sparse"))
    actual, expected = (
        image_snapshot(mke2fs(source, tmp_path / "image", *options)),
        snapshot(source),
    )
    assert actual.keys() == expected.keys()
    # Attributes need ext_attr; fractions of a second need larger inodes than 128 bytes.
    places = [0, 1, 2, 3, 4, 6, 7, *([] if REVISION_0[0] in options else [8]), 9]
    del expected[b""]  # mke2fs gives the root its own time
    for path, facts in expected.items():
        assert [actual[path][place] for place in places] == [facts[place] for place in places]


def test_a_singularity_2_image_begins_at_byte_31(tmp_path: Path) -> None:
    tree = sample_tree(tmp_path / "tree", hole=1 << 20, files=20)
    sealed, old = seal(tree, tmp_path / "image", epoch=EPOCH).path, tmp_path / "old.img"
    old.write_bytes(HEADER_2X + sealed.read_bytes())
    assert image_snapshot(old) == image_snapshot(sealed)


def test_links_lead_inside_the_image(sealed: Path) -> None:
    with Image(sealed) as image:
        hosts = image.find("/link/../link/hosts")
        assert hosts
        assert hosts.path == b"etc/hosts"
        assert image.read(hosts) == b"127.0.0.1 localhost\n"
        assert image.find("/link", follow=False) != image.find("/link")
        assert image.find("/../../etc") == image.find("etc")
        assert image.find("/etc/hosts/x") is None
        assert image.find("/etc/none") is None


def test_a_circle_of_links_is_told(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with (
        Image(seal(tree, tmp_path / "image", epoch=EPOCH).path) as image,
        pytest.raises(ImageError, match="symbolic links"),
    ):
        image.find("/a/x")


def test_memory_does_not_grow_with_a_file(sealed: Path) -> None:
    with Image(sealed) as image:
        sparse, large = image.find("sparse"), image.find("large")
        assert sparse
        assert large
        tracemalloc.start()
        assert sum(map(len, image.stream(sparse))) == (3 << 30) + 3
        assert sum(len(data) for _, data in image.data(large)) == 5 << 20
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20
        assert [(offset, data) for offset, data in image.data(sparse)] == [(3 << 30, b"end")]
        with pytest.raises(ImageError, match="too large"):
            image.read(sparse)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "no ext3 superblock"), (b"#!/bin/sh\n" * 500, "no ext3 superblock")],
)
def test_what_is_no_image_is_told(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ImageError, match=words):
        Image(tmp_path / "x")


@pytest.mark.parametrize("name", ["none", "fifo", "."])
def test_what_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError):
        Image(tmp_path / name)


def test_a_truncated_image_is_told_with_both_sizes(sealed: Path, tmp_path: Path) -> None:
    size = sealed.stat().st_size
    (tmp_path / "x").write_bytes(sealed.read_bytes()[: size - 1])
    with pytest.raises(ImageError, match=f"has {size} bytes, the file only {size - 1}"):
        Image(tmp_path / "x")


def test_ext4_is_refused_by_its_features(sealed: Path, tmp_path: Path) -> None:
    (flags,) = struct.unpack("<I", sealed.read_bytes()[1024 + 96 : 1024 + 100])
    ext4 = patched(sealed, tmp_path / "x", 1024 + 96, struct.pack("<I", flags | 0x40))
    with pytest.raises(ImageError, match="extents"):
        Image(ext4)


def inode_at(image: Path, path: str) -> tuple[int, int]:
    """The byte of an inode in the file, and the first block of its content."""
    with Image(image) as opened:
        entry = opened.find(path, follow=False)
        assert entry
        group, index = divmod(entry.inode.number - 1, opened.superblock.group_inodes)
        start = opened._table(group) * 4096 + index * 256
        return start, struct.unpack_from("<I", opened.inode(entry.inode.number).mapped)[0]


def test_a_directory_that_holds_itself_is_told(sealed: Path, tmp_path: Path) -> None:
    _, block = inode_at(sealed, "etc")
    with Image(sealed) as image:
        etc = image.find("etc")
        assert etc
    # The entry of "hosts" follows "." and "..".
    entry = struct.pack("<IHBB", etc.inode.number, 4096 - 24, 5, 2) + b"hosts"
    assert where(patched(sealed, tmp_path / "x", block * 4096 + 24, entry)) == "/etc/hosts"


@pytest.mark.parametrize("name", [b"ho/ts", b"ho\0ts"])
def test_a_name_that_no_file_can_have_is_told(sealed: Path, tmp_path: Path, name: bytes) -> None:
    _, block = inode_at(sealed, "etc")
    assert where(patched(sealed, tmp_path / "x", block * 4096 + 24 + 8, name)) == "/etc"


def test_an_indirect_block_that_holds_itself_ends(sealed: Path, tmp_path: Path) -> None:
    start, _ = inode_at(sealed, "large")
    data = sealed.read_bytes()
    (indirect,) = struct.unpack_from("<I", data, start + 40 + 12 * 4)
    looped = patched(sealed, tmp_path / "x", indirect * 4096, struct.pack("<I", indirect) * 1024)
    for slot in range(12, 15):  # all three levels, and a size that needs them
        looped = patched(
            looped, tmp_path / f"y{slot}", start + 40 + slot * 4, struct.pack("<I", indirect)
        )
    huge = patched(looped, tmp_path / "z", start + 4, struct.pack("<I", 2**32 - 1))
    assert where(huge) == "/large"


def test_a_block_outside_the_file_system_is_told(sealed: Path, tmp_path: Path) -> None:
    start, _ = inode_at(sealed, "etc/hosts")
    damaged = patched(sealed, tmp_path / "x", start + 40, struct.pack("<I", 2**31))
    assert where(damaged) == "/etc/hosts"


def test_many_files_sharing_all_blocks_are_refused(tmp_path: Path) -> None:
    """Else a small image could hold a reader for days."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / f"{number:03}").write_bytes(random.Random(number).randbytes(40_000))
    image = seal(tree, tmp_path / "image", epoch=EPOCH).path
    first, _ = inode_at(image, "000")
    data = bytearray(image.read_bytes())
    for number in range(200):
        start = first + number * 256
        data[start + 4 : start + 8] = struct.pack("<I", 4096 * (12 + 1024))
        data[start + 40 : start + 92] = struct.pack("<13I", *[3000] * 13)
    data[3000 * 4096 : 3001 * 4096] = struct.pack("<I", 3000) * 1024
    image.write_bytes(data)
    assert where(image).startswith("/0")


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_flipped_bits_anywhere_are_read_or_refused_never_worse(
    small_image: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(small_image)
    # Metadata lies in front: half of the flips go there.
    end = data.draw(st.sampled_from([64 * 1024, len(damaged)]))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(1024, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "image")
        path.write_bytes(damaged)
        with suppress(ImageError):
            image_snapshot(path)


@pytest.fixture(scope="module")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("small")
    tree = place / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/file").write_bytes(random.Random(2).randbytes(100_000))
    (tree / "a/b/c/link").symlink_to("x" * 100)
    os.setxattr(tree / "a/file", "user.x", b"y" * 500)
    return seal(tree, place / "image", epoch=EPOCH).path.read_bytes()
