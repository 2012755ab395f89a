"""A format whose author never saw our source: installed, used, held to the conformance suite."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.thirdparty.conftest import REPOSITORY, Elsewhere

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.xdist_group("elsewhere")]
PROJECT = REPOSITORY / "tests/thirdparty/singbuild-cpio"
RECIPE = REPOSITORY / "recipes/busybox.def"


@pytest.fixture(scope="module")
def with_cpio(elsewhere: Elsewhere) -> Elsewhere:
    elsewhere.install(elsewhere.wheel(PROJECT), options=["--no-deps"])
    return elsewhere


def test_a_recipe_builds_into_it_and_back(with_cpio: Elsewhere, tmp_path: Path) -> None:
    output = with_cpio.run("singbuild", "formats")
    assert "cpio " in output
    assert "from singbuild-cpio 0.5" in output
    archive = tmp_path / "a.cpio"
    with_cpio.run("singbuild", RECIPE, archive)
    listed = subprocess.run(
        ["busybox", "cpio", "-t"], stdin=archive.open("rb"), capture_output=True, check=True
    )
    assert b"srv/hello/greeting" in listed.stdout.splitlines()
    with_cpio.run("singbuild", "convert", archive, tmp_path / "a.img")
    with_cpio.run("singbuild", "diff", archive, tmp_path / "a.img")
    output = with_cpio.run(str(tmp_path / "a.img"), "you", cwd=tmp_path)
    assert "Hello from a.img" in output


def test_it_passes_the_conformance_suite(with_cpio: Elsewhere, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "tests", tmp_path / "tests")
    output = with_cpio.run("pytest", "-q", "-p", "no:cacheprovider", tmp_path / "tests")
    assert "failed" not in output
    assert "7 passed" in output, output
