"""Trees come into images as archives, and leave them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench import docker_images
from tests.bench.builds import SINGBUILD, Build
from tests.host.images.test_change import archive_of_everything, digest, image, names

__all__ = ["image"]
pytestmark = pytest.mark.root


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz", "zstd", "cat"])
def test_archives_come_packed_and_through_pipes(
    program: str, image: Path, singbuild: Build, tmp_path: Path
) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    plain = docker_images.archive(docker_images.file("imported", b"it is here"))
    packed = subprocess.run([program, "-c"][: 1 + (program != "cat")], input=plain, stdout=-1)
    (tmp_path / "a.tar").write_bytes(packed.stdout)
    assert singbuild("import", "a.img", "a.tar").returncode == 0
    assert "imported" in names(image)
    with (tmp_path / "a.tar").open("rb") as stdin:
        assert singbuild("import", "a.img", stdin=stdin).returncode == 0
    before = digest(image)
    (tmp_path / "a.tar").write_bytes(packed.stdout[: min(len(packed.stdout) // 2, 700)])
    assert singbuild("import", "a.img", "a.tar").returncode == 6
    assert singbuild("import", "a.img", "no.tar").returncode == 6
    assert digest(image) == before


@pytest.mark.parametrize("name", ["../out", "/a/../../out", "srv/../../out"])
def test_a_hostile_archive_changes_nothing(
    name: str, image: Path, singbuild: Build, tmp_path: Path
) -> None:
    before = digest(image)
    (tmp_path / "a.tar").write_bytes(docker_images.archive(docker_images.file(name)))
    done = singbuild("import", "a.img", "a.tar")
    assert done.returncode == 6
    assert "out" in done.stderr
    assert digest(image) == before


def test_what_is_exported_is_what_is_imported(
    image: Path, singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "all.tar").write_bytes(archive_of_everything())
    assert singbuild("import", "a.img", "all.tar").returncode == 0
    assert singbuild("export", "-f", "out.tar", "a.img").returncode == 0
    assert singbuild("create", "-q", "-s", "32", "b.img").returncode == 0
    assert singbuild("import", "b.img", "out.tar").returncode == 0
    done = singbuild("diff", "--times", "a.img", "b.img")
    assert (done.returncode, done.stdout) == (0, "no difference\n")
    listed = subprocess.run(["tar", "-tf", tmp_path / "out.tar"], capture_output=True, text=True)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(listed.stdout.splitlines()) == len(names(image))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_an_exported_file_has_the_mode_that_the_umask_leaves(
    umask: int, mode: int, image: Path, tmp_path: Path
) -> None:
    argv = [*SINGBUILD, "export", "-f", "out.tar", str(image)]
    subprocess.run(argv, cwd=tmp_path, check=True, umask=umask)
    assert (tmp_path / "out.tar").stat().st_mode & 0o7777 == mode
