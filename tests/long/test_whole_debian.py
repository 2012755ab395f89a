"""Whole Debians from the machine's mirror: in every privilege mode, twice alike, as a backend."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from singbuild.testing import BackendConformance
from tests.bench.builds import SINGBUILD, User
from tests.bench.singrun_images import ROOT
from tests.host.privilege.test_privilege import MODES, WITHOUT, lacking

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]


class TestDebootstrap(BackendConformance):
    name = "debootstrap"

    @pytest.fixture
    def header(self) -> str:
        return "OSVersion: bookworm"


def test_debian_is_roots_own_in_every_mode(user: User, tmp_path: Path) -> None:
    text = (ROOT / "recipes/debian.def").read_text()
    recipe = user.directory / "debian.def"
    recipe.write_text(text)
    subprocess.run([*SINGBUILD, "lock", str(recipe)], check=True, capture_output=True)
    target = tmp_path / "root.img"
    words = ["-q", "--locked", "--no-cache", str(recipe)]
    subprocess.run([*SINGBUILD, *words, str(target)], check=True)
    for mode in MODES:
        process = user.start("--privilege", mode, *words, f"{mode}.img")
        output = process.communicate()[1]
        assert process.returncode == 0, output
        assert (user.directory / f"{mode}.img").read_bytes() == target.read_bytes()
    for lacks in WITHOUT:
        image = tmp_path / "chroot.img"
        subprocess.run([*lacking(*lacks), "--force", *words, str(image)], check=True)
        assert image.read_bytes() == target.read_bytes(), lacks
