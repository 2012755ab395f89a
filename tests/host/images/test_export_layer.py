"""Images handed to container engines: what skopeo, Podman and docker make of what is exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.bench import container_engines, host
from tests.bench.builds import Build

pytestmark = pytest.mark.root
RECIPE = """\
Bootstrap: busybox
%environment
    export GREETING="hello there"
%post
    mkdir -p /srv
    echo data > /srv/file
    chown 5:6 /srv/file; chmod 4755 /srv/file; ln /srv/file /srv/other
%runscript
    echo "$GREETING $#: $1"
%labels
    Title Exported
"""
Engine = Callable[[Path], AbstractContextManager[container_engines.Tool]]


@pytest.fixture
def image(singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path) -> Path:
    done = singbuild(recipe(RECIPE), "My_Tools.img")
    assert done.returncode == 0, done.stderr
    return tmp_path / "My_Tools.img"


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("form", ["oci", "docker-archive"])
def test_skopeo_sees_what_the_image_is(form: str, singbuild: Build, tmp_path: Path) -> None:
    container_engines.needs("skopeo")
    assert singbuild("export", "--format", form, "-f", "a.tar", "My_Tools.img").returncode == 0
    kind = "oci-archive" if form == "oci" else form
    argv = ["skopeo", "inspect", "--config", f"{kind}:{tmp_path}/a.tar"]
    about = json.loads(subprocess.check_output(argv))
    machine = {"x86_64": "amd64", "aarch64": "arm64"}
    here = subprocess.check_output(["uname", "-m"], text=True).strip()
    assert about["architecture"] == machine.get(here, here)
    assert about["config"]["Labels"] == {"Title": "Exported"}
    assert about["config"]["Entrypoint"] == [
        "/.singularity.d/actions/exec",
        "/.singularity.d/entrypoint",
    ]
    copied = ["skopeo", "--insecure-policy", "copy", argv[-1], f"dir:{tmp_path}/copy"]
    subprocess.run(copied, check=True, capture_output=True)
    # Equal images give equal bytes; a pipe gets the same.
    piped = subprocess.run(
        [sys.executable, "-m", "singbuild", "export", "--format", form, "My_Tools.img"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert piped.stdout == (tmp_path / "a.tar").read_bytes()


@pytest.mark.usefixtures("image")
def test_skopeo_reads_an_archive_for_an_ordinary_user(singbuild: Build, tmp_path: Path) -> None:
    container_engines.needs("skopeo")
    with host.shared_directory() as shared:
        archive, own = shared / "a.tar", shared / "own"
        assert singbuild("export", "--format", "oci", "My_Tools.img", str(archive)).returncode == 0
        archive.chmod(0o644)
        own.mkdir()
        os.chown(own, 65534, 65534)
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        argv += ["env", f"HOME={own}", f"TMPDIR={own}"]
        argv += ["skopeo", "inspect", f"oci-archive:{archive}"]
        about = json.loads(subprocess.check_output(argv, cwd=shared))
    assert about["Labels"] == {"Title": "Exported"}


@pytest.mark.parametrize(
    ("engine", "form"),
    [
        pytest.param(container_engines.dockerd, "docker-archive", marks=pytest.mark.long),
        pytest.param(container_engines.dockerd, "oci", marks=pytest.mark.long),
        (container_engines.podman, "docker-archive"),
        (container_engines.podman, "oci"),
    ],
)
@pytest.mark.usefixtures("image")
def test_an_engine_loads_and_runs_it(
    engine: Engine, form: str, singbuild: Build, tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = tmp_path_factory.mktemp("e")
    words = ("--format", form, "--name", "ada/tools:1.0", "-f", str(where / "a.tar"))
    assert singbuild("export", *words, "My_Tools.img").returncode == 0
    with engine(where) as tool:
        assert "ada/tools:1.0" in tool("load", "-i", where / "a.tar")
        assert tool.runs("ada/tools:1.0", "a b", "c") == "hello there 2: a b\n"
        script = "stat -c '%a %u %g %h %n' /srv/*; cat /srv/file"
        output = tool.runs("--entrypoint=/bin/sh", "ada/tools:1.0", "-c", script)
        assert output == "4755 5 6 2 /srv/file\n4755 5 6 2 /srv/other\ndata\n"


@pytest.mark.usefixtures("image")
def test_an_image_comes_back_as_it_went(
    singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    assert singbuild("export", "--format", "oci", "-f", "a.tar", "My_Tools.img").returncode == 0
    back = recipe(f"Bootstrap: oci-archive\nFrom: {tmp_path}/a.tar\n")
    done = singbuild(back, "b.img")
    assert done.returncode == 0, done.stderr
    launcher = Path(sys.executable).parent / "singrun"
    out = subprocess.check_output([launcher, "run", tmp_path / "b.img", "x"], text=True)
    assert out == "hello there 1: x\n"
    compared = singbuild("diff", "--json", "My_Tools.img", "b.img")
    files = {each["path"] for each in json.loads(compared.stdout)["files"]}
    assert all(name.startswith("/.singularity.d/") for name in files), files
    assert "/.singularity.d/runscript" not in files


def test_the_name_is_the_files_unless_one_is_given(
    image: Path, singbuild: Build, tmp_path: Path
) -> None:
    shutil.copy(image, tmp_path / "b.img")
    for words, name in (
        (("My_Tools.img",), "my-tools:latest"),
        (("--name", "host.example:5000/a/b", "b.img"), "host.example:5000/a/b:latest"),
    ):
        done = singbuild("export", "-F", "--format", "docker-archive", "-f", "a.tar", *words)
        assert done.returncode == 0, done.stderr
        with tarfile.open(tmp_path / "a.tar") as tar:
            manifest = tar.extractfile("manifest.json")
            assert manifest
            assert json.load(manifest)[0]["RepoTags"] == [name]
    for name in ("Upper", "a:b:c", "a b", "a:", "../a", "-a"):
        done = singbuild("export", "--format", "oci", f"--name={name}", "-f", "c.tar", "b.img")
        assert done.returncode == 2
        assert "cannot be a container image's name" in done.stderr
    done = singbuild("export", "--name", "a:1", "-f", "c.tar", "b.img")
    assert done.returncode == 2
    assert not (tmp_path / "c.tar").exists()


def test_an_image_without_our_scripts_becomes_one_with_a_shell(
    singbuild: Build, tmp_path: Path
) -> None:
    """A bare ext3, of nobody's making and with no shell to tell its machine by."""
    (tmp_path / "tree").mkdir()
    bare = tmp_path / "bare.img"
    subprocess.run(["truncate", "-s", "4M", bare], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext3", "-d", tmp_path / "tree", bare], check=True)
    done = singbuild("export", "--format", "docker-archive", "-f", "a.tar", "bare.img")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "a.tar") as tar:
        name = next(each for each in tar.getnames() if each.endswith(".json") and "man" not in each)
        config = tar.extractfile(name)
        assert config
        assert json.load(config)["config"]["Cmd"] == ["/bin/sh"]


@pytest.mark.parametrize("form", ["oci", "docker-archive", "tar"])
def test_a_file_whose_name_would_remove_another_is_told_of(
    form: str, singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    result = recipe(
        "Bootstrap: busybox\n%post\n    mkdir /d /.wh.e; touch /d/keep /d/.wh.keep /.wh.e/x\n"
    )
    assert singbuild(result, "w.img").returncode == 0
    done = singbuild("export", "--format", form, "-f", "w.tar", "w.img")
    assert done.returncode == 0
    if form == "tar":
        assert done.stderr == ""
        listed = subprocess.check_output(["tar", "-tf", tmp_path / "w.tar"], text=True)
        assert "d/.wh.keep" in listed.split()
        return
    assert "/.wh.e and 2 more left out" in done.stderr
    kind = "oci-archive" if form == "oci" else form
    (tmp_path / "back.def").write_text(f"Bootstrap: {kind}\nFrom: w.tar\n")
    assert singbuild("back.def", "b.img").returncode == 0
    changed = json.loads(singbuild("diff", "--json", "w.img", "b.img").stdout)["files"]
    missing = [each["path"] for each in changed if each["kind"] == "removed"]
    assert sorted(missing) == ["/.wh.e", "/.wh.e/x", "/d/.wh.keep"]
