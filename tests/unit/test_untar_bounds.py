"""Archives that are too large, too deep, cut off or damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singbuild import SourceError
from singbuild.tar.extract import Unpacker
from singbuild.tar.limits import Limits
from tests.bench.backend_alone import Recorder
from tests.bench.docker_images import (
    archive,
    directory,
    file,
    symlink,
    whiteout,
)
from tests.unit.test_untar import pieces, root, tree, unpack

__all__ = ["root"]


def test_too_many_entries_are_refused_by_name(root: Path) -> None:
    data = archive(*(file(f"f{n}") for n in range(20)))
    with pytest.raises(
        SourceError, match=r"f10.*\n.*entry number 11.*\n.*SINGBUILD_UNPACK_ENTRIES"
    ):
        unpack(root, data, limits=Limits(entries=10))


def test_files_too_large_are_refused_before_they_are_written(root: Path) -> None:
    with pytest.raises(SourceError, match=r"big.*\n.*\n.*SINGBUILD_UNPACK_BYTES"):
        unpack(root, archive(file("big", bytes(5000))), limits=Limits(size=4999))
    assert tree(root) == []


def test_names_are_bounded_since_they_are_remembered(root: Path) -> None:
    data = archive(*(file("n" * 200 + str(number)) for number in range(20)))
    with pytest.raises(SourceError, match=r"9: cannot.*\n.*2,010 bytes.*\n.*UNPACK_NAMES"):
        unpack(root, data, limits=Limits(names=2000))
    attribute = {"SCHILY.xattr.user.mine": "v" * 900}
    data = archive(*(directory(f"d{number}", pax_headers=attribute) for number in range(3)))
    with pytest.raises(SourceError, match=r"d2/: cannot.*\n.*\n.*UNPACK_NAMES"):
        unpack(root, data, limits=Limits(names=2000))


def test_directories_that_no_member_names_count(root: Path) -> None:
    deep = archive(*(file(f"{number}/" + "d/" * 50 + "f") for number in range(20)))
    with pytest.raises(SourceError, match=r"entry number 101.*\n.*SINGBUILD_UNPACK_ENTRIES"):
        unpack(root, deep, limits=Limits(entries=100))
    assert sum(1 for _ in root.rglob("*")) <= 100
    with pytest.raises(SourceError, match=r"SINGBUILD_UNPACK_NAMES"):
        unpack(root, archive(directory("e")), deep, limits=Limits(names=9000))


def test_very_deep_trees_can_be_made_and_taken_away(root: Path) -> None:
    deep = "/".join("d" * 1 for _ in range(1500))
    old = archive(file(f"{deep}/f"))
    unpack(root, old, archive(whiteout("d"), file("a")))
    assert tree(root) == ["a"]


def test_many_directories_do_not_use_up_the_descriptors(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    unpack(root, archive(*(file(f"d{n}/e/f") for n in range(700))))
    assert len(os.listdir(root)) == 700
    assert len(os.listdir("/proc/self/fd")) < before + 200


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 700, 1030])
def test_an_archive_that_is_cut_off_is_noticed(root: Path, cut: int) -> None:
    data = archive(file("a", bytes(600)), file("b", b"y"))
    with pytest.raises(SourceError, match=r"cut off|damaged"):
        unpack(root, data[:cut])


def test_an_archive_may_end_without_zeros(root: Path) -> None:
    unpack(root, archive(file("a", bytes(512)))[:1024])
    assert tree(root) == ["a"]


def test_a_wrong_checksum_is_noticed(root: Path) -> None:
    data = bytearray(archive(file("a")))
    data[0] ^= 1
    with pytest.raises(SourceError, match="checksum"):
        unpack(root, bytes(data))


def test_everything_is_taken_even_behind_the_end(root: Path) -> None:
    chunks: list[bytes] = []
    content = archive(file("a")) + b"behind" * 1000

    def noted() -> Iterator[bytes]:
        for piece in pieces(content, 100):
            chunks.append(piece)
            yield piece

    with Unpacker(root, Recorder()) as unpacker:
        unpacker.apply(noted())
    assert b"".join(chunks) == content


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_damage_anywhere_is_an_error_or_harmless(noise: bytes, place: int) -> None:
    content = bytearray(archive(directory("d"), file("d/a", b"x" * 700), symlink("s", "d")))
    content[place : place + len(noise)] = noise
    base = Path(os.environ["SINGBUILD_TMPDIR"]) / "noise"
    shutil.rmtree(base, ignore_errors=True)
    (base / "root").mkdir(parents=True)
    with contextlib.suppress(SourceError):
        unpack(base / "root", bytes(content))
    assert os.listdir(base) == ["root"]
    shutil.rmtree(base)


def test_an_error_of_the_source_is_never_taken_for_the_end(root: Path) -> None:
    content = archive(file("a"), file("b"))

    def breaks(after: int) -> Iterator[bytes]:
        yield content[:after]
        raise SourceError("the line is dead")

    for after in range(0, len(content) + 1, 512):
        with pytest.raises(SourceError, match="the line is dead"), Unpacker(root, Recorder()) as u:
            u.apply(breaks(after))
