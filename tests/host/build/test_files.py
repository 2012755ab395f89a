"""%files as cp(1) and Apptainer take it: directories by what they hold, patterns, late names."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import Build, Builder
from tests.host.build.test_build import cat, debugfs

pytestmark = pytest.mark.root

RECIPE = """\
Bootstrap: busybox
%pre
    echo made > late.txt
%files
    . /dot/
    . /new
    ./ /slash/
    sub/. /contents/
    sub /whole/
    .. /up/
    . # all of it, at the root
    late.txt /
    sub/** /stars/
"""


@pytest.fixture(scope="module")
def built(builder: Builder) -> Path:
    directory = builder.own_directory("outer")
    work = directory / "work"
    (work / "sub/deep").mkdir(parents=True)
    (work / "sub/deep/file").write_text("deep")
    (work / "top").write_text("top")
    (work / "files.def").write_text(RECIPE)
    builder.adopt(directory)
    work.chmod(0o700)
    builder.run("files.def", "files.img", cwd=work, check=True)
    return work / "files.img"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/dot/top", "top"),
        ("/new/sub/deep/file", "deep"),
        ("/slash/top", "top"),
        ("/contents/deep/file", "deep"),
        ("/whole/sub/deep/file", "deep"),
        ("/up/work/top", "top"),
        ("/top", "top"),
        ("/late.txt", "made\n"),
        ("/stars/deep/file", "deep"),
    ],
)
def test_what_is_copied_where(path: str, content: str, built: Path) -> None:
    assert cat(built, path) == content


def test_directories_that_were_there_keep_their_mode(built: Path) -> None:
    assert "Mode:  0755" in debugfs(built, "stat /")


def test_no_unfinished_image_is_copied(built: Path) -> None:
    listed = "".join(debugfs(built, f"ls {name}") for name in ("/", "/dot", "/new", "/up/work"))
    assert ".part" not in listed
    assert "files.img" not in listed  # it was not there yet


def test_a_tree_that_holds_the_target_is_the_same_each_time(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/top").write_text("top")
    path = recipe("Bootstrap: busybox\n%files\n    work/. /app/\n")
    done = singbuild("build", "--check-reproducible", path, "work/a.img")
    assert done.returncode == 0, done.stderr
    first = subprocess.check_output(["sha256sum", tmp_path / "work/a.img"])
    (tmp_path / "work/a.img").unlink()
    assert singbuild(path, "work/a.img").returncode == 0
    assert subprocess.check_output(["sha256sum", tmp_path / "work/a.img"]) == first
