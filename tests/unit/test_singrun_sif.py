"""The runtime finds the root file system in a SIF, and refuses the ones that it cannot use."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.images import image, sif
from tests.bench import sif_files as sifs
from tests.bench.sif_files import Object, partition
from tests.bench.singrun_images import HEADER_2X


@pytest.fixture(scope="module")
def squashfs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("squashfs")
    (place / "tree").mkdir()
    (place / "tree/file").write_text("x")
    words = ["mksquashfs", f"{place}/tree", f"{place}/image", "-quiet", "-no-progress"]
    subprocess.run(words, check=True)
    return (place / "image").read_bytes()


@pytest.fixture(scope="module")
def ext3(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ext3") / "image"
    with path.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext3", path], check=True)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files below are for amd64, whatever runs the tests."""
    monkeypatch.setattr(sif, "_EMULATED", "/nowhere/")
    monkeypatch.setitem(sif._ALSO, os.uname().machine, ("x86_64",))


def opened(path: Path) -> image.Image:
    result = image.open_image(str(path))
    os.close(result.fd)  # and with it the lock
    return result


def test_the_primary_partition_is_the_image(tmp_path: Path, squashfs: bytes, ext3: bytes) -> None:
    recipe = Object(sifs.DEFFILE, b"Bootstrap: docker\n")
    for fs, content, kind in (
        (sifs.SQUASHFS, squashfs, image.SQUASHFS),
        (sifs.EXT3, ext3, image.EXT3),
    ):
        path = sifs.written(tmp_path / f"{kind}.sif", [recipe, partition(content, fs)])
        result = opened(path)
        assert (result.kind, result.offset) == (kind, 32768)
        assert result.stamp != opened(sifs.written(path, [partition(content, fs)])).stamp
        with pytest.raises(RunError, match="nobody writes"):
            image.open_image(str(path), writable=True)


def test_an_simg_has_its_squashfs_behind_the_launch_line(tmp_path: Path, squashfs: bytes) -> None:
    (tmp_path / "a.simg").write_bytes(HEADER_2X + squashfs)
    result = opened(tmp_path / "a.simg")
    assert (result.kind, result.offset) == (image.SQUASHFS, 31)
    with pytest.raises(RunError, match="It is a squashfs"):
        image.open_image(str(tmp_path / "a.simg"), writable=True)


def test_an_overlay_partition_is_told_of(
    tmp_path: Path, squashfs: bytes, ext3: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    layers = [partition(squashfs, sifs.SQUASHFS), partition(ext3, sifs.EXT3, sifs.OVERLAY)]
    assert opened(sifs.written(tmp_path / "a.sif", layers)).kind == image.SQUASHFS
    assert "overlay partition" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([], "no primary partition"),
        ([partition(b"x" * 9000, sifs.SQUASHFS, sifs.DATA)], "no primary partition"),
        ([Object(sifs.OCI_BLOB, b"x")], "OCI-SIF"),
        ([partition(b"x", sifs.ENCRYPTED)], "encrypted"),
        ([partition(b"x", 6)], "encrypted"),
        ([partition(b"x", sifs.SQUASHFS, arch=sifs.ARM64)], "for arm64 processors"),
        ([partition(b"x", sifs.SQUASHFS)] * 2, "two primary partitions"),
        ([partition(b"x" * 9000, sifs.EXT3)], "No ext3 superblock"),
        ([partition(b"hsqs".ljust(90, b"\xff"), sifs.SQUASHFS)], "truncated"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, objects: list[Object], words: str
) -> None:
    path = sifs.written(tmp_path / "a.sif", objects)
    with pytest.raises(RunError, match=words) as caught:
        opened(path)
    assert str(path) in caught.value.what
    assert caught.value.remedy


def test_another_processor_is_taken_where_the_kernel_has_an_emulator(
    tmp_path: Path, squashfs: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sifs.written(tmp_path / "a.sif", [partition(squashfs, sifs.SQUASHFS, arch=sifs.ARM64)])
    (tmp_path / "qemu-aarch64").touch()
    monkeypatch.setattr(sif, "_EMULATED", f"{tmp_path}/qemu-")
    assert opened(path).kind == image.SQUASHFS


@pytest.mark.parametrize(
    ("offset", "form", "value", "words"),
    [
        (42, "2s", b"09", "another version"),
        (88, "q", 1 << 40, "table"),
        (88, "q", -1, "table"),
        (96, "q", 1 << 62, "table"),
        (96, "q", -5, "table"),
        (sifs.TABLE + 17, "q", 1 << 62, "truncated"),
        (sifs.TABLE + 17, "q", -1, "truncated"),
        (sifs.TABLE + 25, "q", 1 << 62, "truncated"),
        (sifs.TABLE + 25, "q", 0, "No ext3 superblock"),
    ],
)
def test_lies_in_the_header_are_found_out(
    tmp_path: Path, squashfs: bytes, offset: int, form: str, value: object, words: str
) -> None:
    path = sifs.written(tmp_path / "a.sif", [partition(squashfs, sifs.SQUASHFS)])
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{form}", data, offset, value)
    path.write_bytes(data)
    with pytest.raises(RunError, match=words):
        opened(path)


def test_random_damage_is_refused_or_taken(tmp_path: Path, squashfs: bytes) -> None:
    path = sifs.written(tmp_path / "a.sif", [partition(squashfs, sifs.SQUASHFS)])
    sound = path.read_bytes()
    chance = random.Random(7)
    for _ in range(500):
        data = bytearray(sound)
        for _ in range(chance.choice((1, 2, 5))):
            begin = chance.choice((32, sifs.TABLE, 32768))
            at = begin + chance.randrange(220)
            data[at] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(40, len(data))))])
        try:
            result = opened(path)
        except RunError:
            continue
        assert 0 <= result.offset < len(sound)
