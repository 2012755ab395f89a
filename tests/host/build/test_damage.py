"""Bad input and bad luck around finished images: clear errors, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, Build
from tests.bench.singrun_images import ROOT
from tests.host.build.test_build import debugfs

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("sound") / "sound.img"
    subprocess.run([*SINGBUILD, "-q", ROOT / "recipes/busybox.def", image], check=True)
    return image


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy.img"
    path.write_bytes(built.read_bytes())
    return path


def first_block(image: Path, path: str) -> int:
    """The byte at which a file's data begins."""
    result = re.search(r"\(0.*?\):(\d+)", debugfs(image, f"stat {path}"))
    assert result
    return int(result[1]) * 4096


def test_verify_names_the_first_damaged_path(copy: Path, singbuild: Build) -> None:
    assert singbuild("verify", copy).returncode == 0
    with copy.open("r+b") as file:
        file.seek(first_block(copy, "/bin/busybox") + 77)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    done = singbuild("verify", copy)
    assert done.returncode == 8
    assert "/bin/busybox" in done.stderr


def test_verify_names_what_is_cut(copy: Path, singbuild: Build) -> None:
    os.truncate(copy, first_block(copy, "/bin/busybox") + 8192)
    done = singbuild("verify", copy)
    assert done.returncode == 8
    assert "/bin/busybox" in done.stderr


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.001, 0.01, 0.3, 0.9])
def test_every_command_says_what_is_wrong_with_a_truncated_image(
    part: float, copy: Path, built: Path, singbuild: Build, tmp_path: Path
) -> None:
    os.truncate(copy, int(copy.stat().st_size * part))
    commands: dict[tuple[str | Path, ...], tuple[int, ...]] = {
        ("verify", copy): (8,),
        ("inspect", copy): (0, 8),
        ("inspect", "--sbom", copy): (0, 8),
        ("diff", built, copy): (1, 8),
        ("export", "-o", tmp_path / "out.tar", copy): (0, 2, 8),
        ("expand", "--size", "1", copy): (2, 8),
    }
    for words, statuses in commands.items():
        done = singbuild(*words)
        assert done.returncode in statuses, (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or done.stderr or done.stdout
    assert copy.stat().st_size == int(built.stat().st_size * part)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory that has room for two megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_target_whose_disk_fills_up_stays_what_it_was(
    small: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    target = small / "a.img"
    target.write_text("hsqs: precious")
    path = recipe("Bootstrap: busybox\n%post\n    dd if=/dev/urandom of=/big bs=1M count=30\n")
    done = singbuild("--no-cache", "--force", path, target)
    assert done.returncode == 5, done.stdout + done.stderr
    assert str(small) in done.stderr
    assert target.read_text() == "hsqs: precious"
    assert [each.name for each in small.iterdir()] == ["a.img"]
