"""``verify``: every flipped bit is found, and the first path that is not as built is named."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singbuild.errors import ImageError
from singbuild.ext3.boot import recorded_digest
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.seal import seal
from singbuild.file_tree import DamagedImage
from singbuild.images.verification import verify
from singrun.signatures.statement import NOTE
from tests.bench.host import PATIENCE
from tests.bench.image_trees import EPOCH, sample_tree, trees, with_manifest
from tests.bench.seal_trees import Tree, build

SOME = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with something of everything, free space and all."""
    place = tmp_path_factory.mktemp("verify")
    tree = with_manifest(sample_tree(place / "tree", files=100))
    return seal(tree, place / "image", epoch=2**33, free=1 << 20).path


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--sparse=always", sealed, copy], check=True)
    return copy


def flip(image: Path, offset: int, bits: int = 1) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ bits]))


def damaged(image: Path) -> str:
    with pytest.raises(DamagedImage) as caught:
        verify(image)
    return caught.value.where


def content_block(image: Path, path: str) -> int:
    """The first block of a file's content."""
    with Image(image) as opened:
        entry = opened.find(path, follow=False)
        assert entry
        return next(start for start, _ in opened.runs(entry) if start)


def inode_offset(image: Path, path: str) -> int:
    with Image(image) as opened:
        entry = opened.find(path, follow=False)
        assert entry
        group, index = divmod(entry.inode.number - 1, opened.superblock.group_inodes)
        return opened._table(group) * 4096 + index * 256


def test_a_sealed_image_is_sound_and_records_its_digest(sealed: Path) -> None:
    with Image(sealed) as image:
        record = recorded_digest(image.boot)
        manifest = image.find(".singularity.d/manifest")
        assert manifest
        count = len({entry.inode.number for entry in image.walk()})
        assert manifest.inode.size == 16 * count
    assert str(verify(sealed)) == f"{count} files and directories as recorded, content {record}"
    assert sealed.read_bytes().startswith(
        f"#!/usr/bin/env singrun\n# content {record}\n".encode() + NOTE + b"\0"
    )


def test_an_image_older_than_the_note_is_sound(copy: Path) -> None:
    with copy.open("r+b") as file:
        boot = file.read(1024).replace(NOTE, b"").ljust(1024, b"\0")
        file.seek(0)
        file.write(boot)
    verify(copy)


@pytest.mark.skipif(not shutil.which("e2fsck", path="/sbin:/usr/sbin"), reason="needs e2fsprogs")
def test_e2fsck_finds_nothing_in_it(sealed: Path) -> None:
    subprocess.run(["/sbin/e2fsck", "-fn", sealed], check=True, capture_output=True)


def test_the_old_manifest_in_a_tree_changes_nothing(sealed: Path, tmp_path: Path) -> None:
    """So an image sealed again from its own mount is the same image."""
    tree = sealed.parent / "tree"
    with Image(sealed) as image:
        entry = image.find(".singularity.d/manifest")
        assert entry
        (tree / ".singularity.d/manifest").write_bytes(image.read(entry))
        os.utime(tree / ".singularity.d/manifest", (1, entry.inode.mtime))
    again = seal(tree, tmp_path / "again", epoch=2**33, free=1 << 20).path
    assert again.read_bytes() == sealed.read_bytes()


@SOME
@given(trees(), st.integers(0, 1 << 22))
def test_any_sealed_tree_is_sound(tree: Tree, free: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "tree")
        root.mkdir()
        build(tree, root, 0)
        if tree.specs and b".singularity.d" not in tree.specs:
            with_manifest(root)
        verify(seal(root, Path(place, "image"), epoch=EPOCH, free=free).path)


@pytest.mark.parametrize("path", ["/etc/hosts", "/large", "/etc", "/many", "/long", "/sparse"])
def test_a_flipped_bit_of_content_names_the_path(copy: Path, path: str) -> None:
    flip(copy, content_block(copy, path) * 4096 + 5)
    assert damaged(copy).startswith(path)


@pytest.mark.parametrize("path", ["/etc/hosts", "/large", "/etc", "/link", "/fifo"])
@pytest.mark.parametrize("byte", [1, 2, 8, 12, 16, 24, 30, 100, 139, 200])
def test_a_flipped_bit_of_an_inode_names_the_path(copy: Path, path: str, byte: int) -> None:
    """Among them: owner, access time, generation, spare bytes and the space for attributes."""
    flip(copy, inode_offset(copy, path) + byte)
    # The large file has two names, and is found under the first.
    assert damaged(copy) in (path, "/large" if path == "/second" else path)


def test_two_damaged_files_are_told_by_the_first(copy: Path) -> None:
    for path in ("/many/file-0050-" + "n" * 40, "/large", "/many/file-0010-" + "n" * 40):
        flip(copy, content_block(copy, path) * 4096)
    assert damaged(copy) == "/large"


@pytest.mark.parametrize(
    ("offset", "where"),
    [
        (3, "the boot block"),
        (40, "the boot block"),
        (900, "the boot block"),
        (1024 + 0x78, "the superblock"),  # the volume's name
        (1024 + 0x48, "the superblock"),  # the creator
        (1024 + 0x3FF, "the superblock"),
        (4096 + 16, "the superblock or the group descriptors"),
        (4096 + 31, "the superblock or the group descriptors"),
    ],
)
def test_a_flipped_bit_outside_all_files_says_where(copy: Path, offset: int, where: str) -> None:
    flip(copy, offset)
    assert damaged(copy).startswith(where)


def test_bitmaps_journal_free_space_and_manifest_are_told(copy: Path, tmp_path: Path) -> None:
    with Image(copy) as image:
        (bitmap,) = struct.unpack_from("<I", copy.read_bytes(), 4096)
        journal = struct.unpack_from("<I", image.inode(8).mapped)[0]
    places = {
        bitmap * 4096 + 4095: "the block bitmap of group 0",
        bitmap * 4096 + 4096: "the inode bitmap of group 0",
        (journal + 500) * 4096: "the journal or another file of the file system itself",
        copy.stat().st_size - 1: "the free space",
        content_block(copy, "/.singularity.d/manifest") * 4096: "/.singularity.d/manifest",
    }
    for offset, where in places.items():
        flip(copy, offset)
        assert damaged(copy) == where
        flip(copy, offset)
    verify(copy)


def test_a_truncated_image_names_what_is_cut(copy: Path) -> None:
    end = content_block(copy, "/many/file-0099-" + "n" * 40) * 4096
    inside = (content_block(copy, "/large") + 5) * 4096
    os.truncate(copy, end)
    assert damaged(copy) == "/many/file-0099-" + "n" * 40
    os.truncate(copy, inside)
    assert damaged(copy) == "/large"


def test_cut_free_space_and_appended_bytes_are_its_end(sealed: Path, copy: Path) -> None:
    os.truncate(copy, sealed.stat().st_size - 4096)
    assert damaged(copy) == "its end"
    os.truncate(copy, sealed.stat().st_size)
    verify(copy)
    with copy.open("ab") as file:
        file.write(b"\0")
    assert damaged(copy) == "its end"


@pytest.mark.parametrize("power", [36, 40, 42, 62])
def test_a_manifest_of_any_size_costs_neither_time_nor_memory(copy: Path, power: int) -> None:
    """The larger sizes would take all memory of the host for a list of blocks."""
    flip(copy, inode_offset(copy, ".singularity.d/manifest") + 108 + power // 8 - 4, 1 << power % 8)
    assert damaged(copy) == "/.singularity.d/manifest"


@pytest.mark.parametrize("groups", [1 << 15, 1 << 17])
def test_a_superblock_of_16_tib_costs_no_time(copy: Path, groups: int) -> None:
    """Its counts agree with each other, and the file has a millionth of what they say."""
    with Image(copy) as image:
        inodes = image.superblock.group_inodes * groups
    with copy.open("r+b") as file:
        file.seek(1024)
        file.write(struct.pack("<II", inodes, min(groups << 15, (1 << 32) - 1)))
    begin = time.process_time()
    assert damaged(copy) == "its end"
    assert time.process_time() - begin < 2 * PATIENCE


def test_a_cut_in_the_superblock_is_no_image(copy: Path) -> None:
    os.truncate(copy, 1500)
    with pytest.raises(ImageError):
        verify(copy)


def changed(image: Path, *commands: str) -> str:
    """What verify says after debugfs wrote to an image as a mount does."""
    with image.open("r+b") as file:
        file.seek(1024 + 0x34)
        file.write(b"\1\0")  # one mount
    lines = "\n".join(commands)
    argv = ["debugfs", "-w", "-f", "-", str(image)]
    subprocess.run(argv, input=lines, text=True, check=True, capture_output=True)
    with pytest.raises(ImageError, match="was changed since it was built") as caught:
        verify(image)
    return str(caught.value)


@pytest.mark.skipif(not shutil.which("debugfs"), reason="needs debugfs")
def test_a_changed_image_is_told_from_a_damaged_one(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new\n")
    message = changed(copy, f"write {tmp_path}/new etc/new")
    assert "first at /etc\n" in message
    assert "last written to on" in message


@pytest.mark.skipif(not shutil.which("debugfs"), reason="needs debugfs")
def test_a_removed_file_is_told_by_its_directory(copy: Path) -> None:
    assert "first at /etc\n" in changed(copy, "rm etc/hosts")


def test_an_image_that_records_nothing_is_told(tmp_path: Path) -> None:
    argv = ["mke2fs", "-q", "-F", "-t", "ext3", str(tmp_path / "bare"), "4M"]
    subprocess.run(argv, check=True, env={"PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"})
    with pytest.raises(ImageError, match="records no digest"):
        verify(tmp_path / "bare")


def test_without_a_manifest_content_is_still_checked(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x" * 5000)
    image = seal(tree, tmp_path / "image", epoch=EPOCH).path
    verify(image)
    flip(image, content_block(image, "file") * 4096)
    with pytest.raises(DamagedImage, match="no manifest"):
        verify(image)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An image of few blocks, and how far its metadata and its data reach."""
    place = tmp_path_factory.mktemp("small")
    tree = place / "tree"
    tree.mkdir()
    with_manifest(tree)
    (tree / "file").write_bytes(random.Random(1).randbytes(60_000))
    (tree / "sub").mkdir()
    (tree / "sub/link").symlink_to("x" * 90)
    os.setxattr(tree / "file", "user.x", b"y" * 700)
    image = seal(tree, place / "image", epoch=EPOCH).path
    return image, image.stat().st_size


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_flipped_bit_anywhere_goes_unseen(small: tuple[Path, int], data: st.DataObject) -> None:
    image, size = small
    # Most of such an image is the empty journal: half of the flips go elsewhere.
    front = st.integers(0, 20 * 4096)
    offset = data.draw(front | st.integers(0, size - 1) | st.integers(size - 40 * 4096, size - 1))
    bits = data.draw(st.integers(1, 255))
    flip(image, offset, bits)
    try:
        with pytest.raises(ImageError):
            verify(image)
    finally:
        flip(image, offset, bits)


def test_every_bit_of_the_superblock_counts(small: tuple[Path, int]) -> None:
    image, _ = small
    for offset in range(1024, 2048):
        flip(image, offset, 1 << offset % 8)
        with pytest.raises(ImageError):
            verify(image)
        flip(image, offset, 1 << offset % 8)
    verify(image)
