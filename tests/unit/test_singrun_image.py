"""Image kinds are told from a few bytes, and lies in them are found out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.images import image
from tests.bench.singrun_images import HEADER_2X, LAUNCH_LINE


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("image") / "plain"
    with path.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext3", path], check=True)
    return path.read_bytes()


def opened(path: Path, data: bytes) -> image.Image:
    path.write_bytes(data)
    return image.open_image(str(path))


def test_the_three_kinds_of_file_and_a_directory(tmp_path: Path, plain: bytes) -> None:
    ours = LAUNCH_LINE + plain[len(LAUNCH_LINE) :]
    assert (opened(tmp_path / "a", plain).kind, opened(tmp_path / "a", plain).offset) == ("ext3", 0)
    assert opened(tmp_path / "b", ours).offset == 0
    assert opened(tmp_path / "c", HEADER_2X + plain).offset == 31
    assert image.open_image(str(tmp_path)).kind == "sandbox"


def test_the_path_is_absolute_and_the_descriptor_stays_ours(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(plain)
    monkeypatch.chdir(tmp_path)
    result = image.open_image("a")
    assert result.path == str(tmp_path / "a")
    assert not os.get_inheritable(result.fd)


def test_a_journal_with_changes_in_it_is_noticed(tmp_path: Path, plain: bytes) -> None:
    dirty = bytearray(plain)
    dirty[1024 + 96] |= 4
    assert opened(tmp_path / "a", bytes(dirty)).dirty
    assert not opened(tmp_path / "b", plain).dirty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"#!/bin/sh\n", "No ext3 superblock"),
        (lambda data: data[:1081], "No ext3 superblock"),
        (lambda data: data[:1082], "truncated"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: HEADER_2X + data[:-1], "truncated"),
        (lambda data: data[:1048] + b"\x07" + data[1049:], "damaged"),
        (lambda data: data[:1028] + bytes(4) + data[1032:], "damaged"),
    ],
)
def test_what_is_no_image_is_refused_with_reason_and_remedy(
    tmp_path: Path, plain: bytes, change: object, words: str
) -> None:
    assert callable(change)
    with pytest.raises(RunError, match=words) as caught:
        opened(tmp_path / "a", change(plain))
    assert str(tmp_path / "a") in caught.value.what
    assert caught.value.remedy
    assert caught.value.status == 255


def test_an_image_that_is_refused_stays_open_nowhere(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "short").write_bytes(plain[:1081])
    descriptors = os.listdir("/proc/self/fd")
    for path in (tmp_path / "short", Path("/dev/null")):
        with pytest.raises(RunError):
            image.open_image(str(path))
    assert os.listdir("/proc/self/fd") == descriptors


def test_special_files_neither_hold_us_nor_pass(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(RunError, match="no regular file"):
            image.open_image(str(path))
