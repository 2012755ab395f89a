"""A backend whose author never saw our source: built, installed and used like a built-in."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.thirdparty.conftest import REPOSITORY, Elsewhere

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.xdist_group("elsewhere")]
PROJECT = REPOSITORY / "tests/thirdparty/singbuild-tarball"


@pytest.fixture(scope="module")
def with_tarball(elsewhere: Elsewhere) -> Elsewhere:
    elsewhere.install(elsewhere.wheel(PROJECT), options=["--no-deps"])
    return elsewhere


@pytest.fixture
def rootfs(with_tarball: Elsewhere, tmp_path: Path) -> Path:
    """A tar archive of a root file system."""
    code = "import sys, pathlib, test_tarball as t; t.archive(pathlib.Path(sys.argv[1]))"
    where = tmp_path / "rootfs.tar.gz"
    with_tarball.run("python", "-c", code, where, cwd=PROJECT / "tests")
    return where


def test_it_is_listed_with_its_distribution(with_tarball: Elsewhere) -> None:
    listed = with_tarball.run("singbuild", "backends")
    assert re.search(r"^tarball .*\n +from singbuild-tarball 1\.2\.3$", listed, re.M)
    assert re.search("^busybox ", listed, re.M)
    assert "SHA256" in with_tarball.run("singbuild", "backends", "tarball")


def test_its_recipe_builds_runs_and_locks(
    with_tarball: Elsewhere, rootfs: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.def"
    recipe.write_text(
        f"Bootstrap: tarball\nURL: {rootfs}\n%post\n    echo made > /post\n"
        "%runscript\n    echo hello $1\n%test\n    cat /post\n"
    )
    with_tarball.run("singbuild", "lock", recipe)
    lock = yaml.safe_load((tmp_path / "mine.lock.yaml").read_text())
    digest = hashlib.sha256(rootfs.read_bytes()).hexdigest()
    assert lock["backend"] == {
        "name": "tarball",
        "distribution": "singbuild-tarball",
        "version": "1.2.3",
    }
    assert lock["pins"]["sha256"] == digest
    image = tmp_path / "mine.img"
    output = with_tarball.run("singbuild", "build", "--locked", "--json", recipe, image)
    assert '"label": "Unpacking"' in output
    assert with_tarball.run(str(image), "you", cwd=tmp_path) == "hello you\n"
    assert with_tarball.run("singrun", "exec", image, "cat", "/post") == "made\n"
    assert digest in with_tarball.run("singbuild", "inspect", "--labels", image)
    with rootfs.open("ab") as file:
        file.write(b"\0" * 512)
    again = ("build", "--locked", "--force", recipe, image)
    assert "pins.sha256" in with_tarball.run("singbuild", *again, status=9)


def test_it_passes_the_conformance_suite(with_tarball: Elsewhere, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "tests", tmp_path / "tests")
    output = with_tarball.run("pytest", "-q", "-p", "no:cacheprovider", tmp_path / "tests")
    assert "failed" not in output
    assert "12 passed" in output or "13 passed" in output, output
