"""What is unpacked of a hostile image is measured to its end, and its bounds are not its own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.images import unpacker, unpacking
from singrun.images.image import open_image
from tests.bench.image_trees import mke2fs

LONGEST = 4095  # bytes of a path, which a program in the tree begins with ./


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[int]:
    """A tree with a file whose path from there is as long as can be; a descriptor of it."""
    (tmp_path / "tree").mkdir()
    top, place = os.open(tmp_path / "tree", os.O_RDONLY), "."
    while LONGEST - len(place) > 256:
        place += "/" + "d" * 199
        os.mkdir(place, dir_fd=top)
    file = os.open(f"{place}/".ljust(LONGEST, "f"), os.O_WRONLY | os.O_CREAT, dir_fd=top)
    os.write(file, bytes(1 << 20))
    os.fchmod(file, 0o6755)
    yield file
    os.close(file)
    os.close(top)
    unpacking.remove(str(tmp_path / "tree"))


def test_paths_as_long_as_can_be_are_measured_too(tmp_path: Path, deep: int) -> None:
    amount = unpacker.measured(str(tmp_path / "tree"))
    assert amount.entries == amount.directories + 1
    assert amount.size >= os.fstat(deep).st_blocks * 512
    unpacker._drop_set_ids(str(tmp_path / "tree"))
    assert os.fstat(deep).st_mode & 0o7777 == 0o755


def test_a_superblock_that_changes_after_the_image_was_opened_is_checked(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    mke2fs(tmp_path / "tree", tmp_path / "image", "-b", "4096")
    image = open_image(str(tmp_path / "image"))
    assert unpacker._bounds(image, 0).size < 1 << 40
    with (tmp_path / "image").open("r+b") as file:
        file.seek(1024 + 24)
        file.write(b"\x07")
    with pytest.raises(RunError, match="damaged"):
        unpacker._bounds(image, 0)
    os.close(image.fd)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a tree, and part of it that a killed removal has left."""
    for name in ("stamp", "stamp.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text("1")
    return tmp_path


def test_what_a_killed_removal_left_keeps_no_tree_from_going(cache: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    assert unpacking.take_away(f"{cache}/stamp", str(cache))
    assert os.listdir(cache) == []
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("name", ["stamp", "stamp.old"])
def test_what_somebody_works_on_stays(cache: Path, name: str) -> None:
    with_lock = os.open(cache / name, os.O_RDONLY)
    fcntl.flock(with_lock, fcntl.LOCK_SH)
    descriptors = os.listdir("/proc/self/fd")
    assert not unpacking.take_away(f"{cache}/stamp", str(cache))
    assert os.listdir("/proc/self/fd") == descriptors
    assert (cache / name / "size").exists()
    assert (cache / "stamp").exists()
    os.close(with_lock)
