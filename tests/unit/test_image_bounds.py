"""Counts and sizes of an image that no file holds are refused, whatever they say."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest

from singbuild import about
from singbuild.errors import ImageError
from singbuild.ext3 import budget, records
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.geometry import Geometry
from singbuild.ext3.node import Node
from singbuild.ext3.reader.attributes import in_block
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.filesystem import tree_digests
from singbuild.ext3.writer.nodes import Nodes, Status
from singbuild.ext3.writer.seal import seal
from singbuild.ext3.writer.short_files import Batch, long_file
from singbuild.ext3.writer.target import Target
from singbuild.file_tree import REGULAR, DamagedImage, FileTree
from singbuild.formats.loading import opened
from singbuild.images import containers, difference, parts, push, stage_layers
from singbuild.images.expected_bytes import Compared
from singbuild.packages import databases
from singbuild.packages.tree import ImageTree
from singbuild.squashfs import image as squashfs
from singbuild.tar import write
from tests.bench.image_trees import EPOCH, mke2fs


def test_a_backup_behind_8_tib_has_the_low_bits_of_its_groups_number() -> None:
    """So does e2fsprogs: s_block_group_nr has 16."""
    totals = records.Totals(1 << 31, 0, 0, 0, UUID(int=0).bytes, bytes(16), bytes(60))
    block = records.superblock(Geometry(1 << 17, 16, 1024), totals, 5**7)
    assert int.from_bytes(block[0x5A:0x5C], "little") == 5**7 - 0x10000


class _OneFile:
    """A tree of one file, of which a byte is stored. offset: where."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def short_files(self, nodes: Nodes, _target: Target) -> AbstractContextManager[Iterable[Batch]]:
        return nullcontext(map(long_file, islice(nodes, 1, None)))

    def file(self, _node: Node) -> tuple[list[Attribute], Iterable[tuple[int, bytes]]]:
        return [], [(self._offset, b"x")]

    def target(self, _node: Node) -> bytes:
        raise NotImplementedError

    def attributes(self, _node: Node) -> list[Attribute]:
        return []


@pytest.mark.parametrize(("links", "offset", "why"), [(1 << 16, 0, "links"), (1, 1 << 43, "large")])
def test_what_no_inode_of_ext3_holds_is_refused_by_name(links: int, offset: int, why: str) -> None:
    """A squashfs may hold it, and the digest of its tree is asked for."""
    nodes, times = Nodes(), (0, 0, 0)
    file = Status(b"file", 5, stat.S_IFREG, *times, offset + 1, 0, 0)
    nodes.fill(Status(b"", 1, stat.S_IFDIR, *times, 0, 0, 0), [[file]])
    for _ in range(links - 1):
        nodes._add_name(file, nodes._offsets.get(5))
    with pytest.raises(ImageError, match="/file") as caught:
        tree_digests(nodes, _OneFile(offset))
    assert why in caught.value.why


HOLE = 14 << 20  # bytes, below what one text may have


def sparse(path: Path, size: int = HOLE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


@pytest.fixture
def image(tree: Path, tmp_path: Path) -> Callable[[], FileTree]:
    return lambda: opened(seal(tree, tmp_path / "image", epoch=EPOCH).path)


def test_scripts_of_holes_are_bounded_together(tree: Path, image: Callable[[], FileTree]) -> None:
    for number in range(30):
        sparse(tree / f".singularity.d/env/10-{number}.sh")
    with image() as opened_tree:
        with pytest.raises(ImageError, match="too large"):
            parts.text(opened_tree, "environment")
        with pytest.raises(ImageError, match="more than an image of this size"):
            about.attributes(ImageTree(opened_tree), ["environment"])


def test_names_of_scripts_count_like_their_text(tree: Path, image: Callable[[], FileTree]) -> None:
    sparse(tree / ".singularity.d/env/10-a.sh", (16 << 20) - 10)
    (tree / ".singularity.d/env/20-b.sh").touch()
    with image() as opened_tree, pytest.raises(ImageError, match=r"env.* is too large") as caught:
        parts.text(opened_tree, "environment")
    assert "at most -" not in caught.value.why


def test_databases_of_holes_are_bounded_together(tree: Path, image: Callable[[], FileTree]) -> None:
    for number in range(30):
        sparse(tree / f"lib/{number}.dist-info/METADATA")
    with image() as opened_tree, pytest.raises(ImageError, match="more than an image of this size"):
        databases.software(ImageTree(opened_tree))


def test_a_runscript_of_holes_is_no_layer(tree: Path, image: Callable[[], FileTree]) -> None:
    sparse(tree / ".singularity.d/runscript", 1 << 40)
    (tree / ".singularity.d/runscript").chmod(0o755)
    with image() as opened_tree, pytest.raises(ImageError, match="too large"):
        deque(containers.archive(opened_tree, "docker-archive", "a:b"), maxlen=0)


def test_a_long_word_among_the_variables_is_refused(
    tree: Path, image: Callable[[], FileTree]
) -> None:
    """To split it into words takes time that grows with the square of its length."""
    sparse(tree / ".singularity.d/env/10-source.sh", 1 << 20)
    with image() as opened_tree, pytest.raises(ImageError, match="too large"):
        deque(containers.archive(opened_tree, "docker-archive", "a:b"), maxlen=0)


def test_files_of_holes_are_compared_by_what_they_store(tree: Path, tmp_path: Path) -> None:
    sparse(tree / "file", 1 << 40)
    images = [seal(tree, tmp_path / name, epoch=EPOCH).path for name in "ab"]
    with opened(images[0]) as one, opened(images[1]) as other:
        assert [*stage_layers.changes(one, other, lambda _: False)] == [bytes(1024)]


def test_a_symbolic_link_longer_than_a_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to("x" * 4095)
    mke2fs(tmp_path / "tree", tmp_path / "image", "-b", "8192")
    with Image(tmp_path / "image") as opened_tree:
        link = opened_tree.find("link", follow=False)
        assert link
        assert len(opened_tree.target(link)) == 4095
        (block,) = struct.unpack_from("<I", link.inode.mapped)  # type: ignore[attr-defined]
        longer = link.inode._replace(size=4096)  # type: ignore[attr-defined]
        with (tmp_path / "image").open("r+b") as file:
            file.seek(block * 8192)
            file.write(b"x" * 4096)
        with pytest.raises(DamagedImage, match="/link"):
            opened_tree.target(link._replace(inode=longer))


def squashed(tree: Path) -> Path:
    words = ["mksquashfs", str(tree), f"{tree}.sqfs", "-quiet", "-b", "4096"]
    subprocess.run(words, check=True, capture_output=True)
    return Path(f"{tree}.sqfs")


def test_lists_of_blocks_are_bounded_together(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of holes takes a two hundredth of itself in a squashfs, and is held in memory."""
    for number in range(16):
        sparse(tree / f"{number:02}", 1 << 20)
    image = squashed(tree)
    with opened(image) as opened_tree:
        assert len([*opened_tree.walk()]) == 17
    monkeypatch.setattr(squashfs, "_LONGEST_LIST", 1024)
    with opened(image) as opened_tree, pytest.raises(DamagedImage, match="lists"):
        deque(opened_tree.walk(), maxlen=0)


def test_names_are_as_many_as_the_file_has_room_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the superblock says of inodes."""
    for number in range(5):
        sparse(tree / f"{number}", 0)
    image = squashed(tree)
    with image.open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 4)
    monkeypatch.setattr(squashfs, "_NAMES", 4 - image.stat().st_size)
    with opened(image) as opened_tree, pytest.raises(DamagedImage, match="more names"):
        deque(opened_tree.walk(), maxlen=0)


@pytest.fixture
def _small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image may have read of it, whatever its size: 100,000 bytes."""
    monkeypatch.setattr(budget, "_MOST", 100_000)
    monkeypatch.setattr(budget, "_TIMES", 0)


def read_all(image: FileTree) -> None:
    for entry in image.walk():
        if entry.inode.kind == REGULAR:
            deque(image.data(entry), maxlen=0)


@pytest.mark.usefixtures("_small_budget")
def test_ends_of_files_in_one_fragment_are_bounded_together(tree: Path) -> None:
    for number in range(30):
        tree.mkdir(exist_ok=True)
        (tree / f"{number}").write_bytes(bytes(range(250)) * 16)  # mksquashfs stores it once
    with opened(squashed(tree)) as image, pytest.raises(DamagedImage, match="image of this size"):
        read_all(image)


@pytest.mark.usefixtures("_small_budget")
def test_fragments_that_are_read_by_turns_are_bounded_together(tree: Path) -> None:
    tree.mkdir()
    for number in range(12):
        (tree / f"{number}").write_bytes(bytes([number]) * 4000)
    with opened(squashed(tree)) as image:
        read_all(image)
        with pytest.raises(DamagedImage, match="image of this size"):
            read_all(image)


def as_ext3(tree: Path) -> Path:
    return mke2fs(tree, tree.with_name("image"), "-b", "4096")


@pytest.mark.parametrize("pack", [as_ext3, squashed])
@pytest.mark.usefixtures("_small_budget")
def test_attributes_are_bounded_together(tree: Path, pack: Callable[[Path], Path]) -> None:
    sparse(tree / "file", 0)
    os.setxattr(tree / "file", "user.mine", b"x" * 1000)
    with opened(pack(tree)) as image:
        entry = image.find("file")
        assert entry
        assert image.attributes(entry) == ((b"user.mine", b"x" * 1000),)
        with pytest.raises(DamagedImage, match="image of this size"):
            deque((image.attributes(entry) for _ in range(200)), maxlen=0)


def test_values_of_attributes_that_lie_in_one_another_are_refused() -> None:
    """Thousands of descriptions could else name one value of a block each."""
    names = [b"a", b"b"]
    entries = [struct.pack("<BBHIII", 1, 1, 1024, 0, 3000, 0) + name + bytes(3) for name in names]
    block = (struct.pack("<I", 0xEA020000).ljust(32, b"\0") + b"".join(entries)).ljust(4096, b"\0")
    with pytest.raises(ValueError, match="outside its place"):
        list(in_block(block))
    one = block.replace(entries[1], bytes(len(entries[1])))
    assert list(in_block(one)) == [(b"user.a", bytes(3000))]


def test_attributes_without_their_table_are_none(tree: Path) -> None:
    """As in Linux: squashfs_read_inode() looks none up there."""
    sparse(tree / "file", 0)
    os.setxattr(tree / "file", "user.mine", b"x")
    image = squashed(tree)
    with image.open("r+b") as file:
        file.seek(56)  # xattr_id_table_start
        file.write(b"\xff" * 8)
    with opened(image) as opened_tree:
        entry = opened_tree.find("file")
        assert entry
        assert opened_tree.attributes(entry) == ()


@pytest.mark.skipif(not shutil.which("debugfs"), reason="needs e2fsprogs")
def test_a_second_name_of_an_inode_with_one_link_is_refused(tree: Path, tmp_path: Path) -> None:
    """Else the data of one inode would be written once for each of its names."""
    sparse(tree / "file", 0)
    sparse(tree / "other", 0)
    image = mke2fs(tree, tmp_path / "image")
    debug = ["debugfs", "-w", "-R", "ln file name", str(image)]  # it counts no link
    subprocess.run(debug, check=True, capture_output=True)
    with opened(image) as one, opened(image) as other:
        for read in (write.archive(one), difference.files(one, other)):
            with pytest.raises(DamagedImage, match="/name") as caught:
                deque(read, maxlen=0)
            assert "one link" in caught.value.reason


def test_tables_of_inodes_take_the_same_memory_whatever_the_size_of_an_inode(tree: Path) -> None:
    tree.mkdir()
    options = ("-b", "65536", "-I", "32768", "-N", "1280", "-O", "^has_journal,^resize_inode")
    image = mke2fs(tree, tree.with_name("image"), *options)
    with Image(image) as opened_tree:
        tracemalloc.start()
        try:
            for number in range(1, opened_tree.superblock.inodes, 64):
                with suppress(ValueError):  # most are free
                    opened_tree.inode(number)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 << 20


class _Noted(Image):
    """An image that notes how much of its file is read as it is."""

    read_bytes = 0

    def raw(self, offset: int, size: int) -> bytes:
        self.read_bytes += size
        return super().raw(offset, size)


def test_holes_are_not_read_to_find_that_they_are_zeros(tree: Path, tmp_path: Path) -> None:
    tree.mkdir()
    path = seal(tree, tmp_path / "image", epoch=EPOCH).path
    content, size, at = path.read_bytes(), 1 << 30, 1 << 29
    with path.open("r+b") as file:
        file.truncate(size)
    for differing in ([], [at]):
        with _Noted(path) as image:
            compared = Compared(image, image.boot)
            compared.write(image.boot, 0)
            compared.write(content[1024:], 1024)
            compared.truncate(size)
            compared.compare_rest()
            assert compared.differing == differing
            assert image.read_bytes < 2 * len(content)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"x")


def test_a_date_behind_the_year_9999_is_pushed_as_its_end(tree: Path, tmp_path: Path) -> None:
    tree.mkdir()
    path = seal(tree, tmp_path / "image", epoch=EPOCH).path
    with path.open("r+b") as file:
        file.seek(1024 + 0x276)  # s_mkfs_time_hi
        file.write(b"\xff")
    with opened(path) as image:
        date = push._annotations(image)["org.opencontainers.image.created"]
    assert date == "9999-12-31T23:59:59Z"
