"""What --force replaces, and what it never does: files and directories that are no images."""

from __future__ import annotations

from pathlib import Path

import pytest

from singbuild.errors import ImageError
from singbuild.plan import preflight
from tests.bench import sif_files

LEFT_ALONE = "is left alone"


def check(target: Path, *, directory: bool = False) -> None:
    preflight.check_target(target, force=True, directory=directory)


def test_a_recipe_and_data_are_left_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "tool.def"
    recipe.write_text("Bootstrap: busybox\n")
    with pytest.raises(ImageError, match=LEFT_ALONE) as caught:
        check(recipe)
    assert f"rm -r {recipe}" in caught.value.remedy
    data = tmp_path / "data"
    data.mkdir()
    (data / "measured.csv").write_text("1\n")
    with pytest.raises(ImageError, match=LEFT_ALONE):
        check(data, directory=True)
    assert (data / "measured.csv").exists()


def test_images_and_what_is_empty_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "nothing").mkdir()
    check(tmp_path / "empty")
    check(tmp_path / "nothing", directory=True)
    root = sif_files.partition(b"hsqs" + bytes(2000), sif_files.SQUASHFS)
    check(sif_files.written(tmp_path / "a.sif", [root]))
    (tmp_path / "tree/.singularity.d").mkdir(parents=True)
    check(tmp_path / "tree", directory=True)


@pytest.mark.parametrize("place", [".", "..", "~"])
def test_nobody_stands_in_what_is_replaced(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    (image / "opt/.singularity.d").mkdir(parents=True)
    (image / ".singularity.d").mkdir()
    monkeypatch.setenv("HOME", str(image))
    monkeypatch.chdir(tmp_path if place == "~" else image / "opt")
    with pytest.raises(ImageError, match=LEFT_ALONE):
        check(image if place == "~" else Path(place), directory=True)
