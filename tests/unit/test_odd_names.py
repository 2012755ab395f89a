"""Names and words that are no UTF-8 text: shown escaped, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.ext3.writer.seal import seal

ODD = os.fsencode("i") + b"\xff.img"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").touch()
    return seal(tmp_path / "tree", tmp_path / os.fsdecode(ODD), epoch=1_000_000_000).path


def answer_of(cwd: Path, *words: bytes | str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "singbuild", *words]
    done = subprocess.run(argv, cwd=cwd, capture_output=True)
    text = (done.stdout + done.stderr).decode()
    assert "Traceback" not in text, text
    return done.returncode, text


@pytest.mark.parametrize("option", [(), ("--json",), ("--sbom",)])
def test_an_image_whose_name_is_no_text_is_inspected(
    image: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    status, text = answer_of(tmp_path, "inspect", *option, ODD)
    assert status == 0
    assert "udcff" in text or "--sbom" in option


def test_an_attribute_whose_name_is_no_text_is_refused_where_a_tar_would_have_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").touch()
    os.setxattr(tmp_path / "tree/file", b"user.caf\xe9", b"value")
    image = seal(tmp_path / "tree", tmp_path / "i.img", epoch=1_000_000_000).path
    status, text = answer_of(tmp_path, "export", "-f", "i.tar", str(image))
    assert (status, "file: has an attribute" in text, "not UTF-8" in text) == (8, True, True), text
    assert sorted(os.listdir(tmp_path)) == ["i.img", "tree"]
    assert answer_of(tmp_path, "verify", str(image))[0] == 0


def test_a_source_whose_name_is_no_text_is_refused_with_a_remedy(tmp_path: Path) -> None:
    status, text = answer_of(tmp_path, "pull", b"oci-archive:a\xff.tar", "b.img")
    assert status == 2
    assert "is not UTF-8 text" in text
    assert "ln -s" in text


def test_words_that_are_no_text_are_wrong_like_others(tmp_path: Path) -> None:
    wrong: list[list[bytes | str]] = [
        ["backends", b"\xff"],
        [b"\xff.def", "a.img"],
        ["pull", b"docker://\xff", "a"],
    ]
    for words in wrong:
        assert answer_of(tmp_path, *words)[0] in (2, 3, 4)
