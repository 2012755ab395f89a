"""The runtime on every Python that this host has: node's own are older than workstations'."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import singrun
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE

SUPPORTED = [f"3.{minor}" for minor in range(9, 15)]
MAIN = str(images.ROOT / "singrun/__main__.py")


def interpreters(version: str) -> list[Path]:
    """Python of this version, of the host and of pyenv."""
    paths = [Path(f"/usr/bin/python{version}"), Path(f"/usr/local/bin/python{version}")]
    paths += sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python3"))
    return [path for path in paths if path.exists()]


def python(version: str) -> str:
    paths = interpreters(version)
    if not paths:
        pytest.skip(f"no Python {version} here")
    return str(paths[-1])


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_runtime_and_its_one_file_form_start(version: str, tmp_path: Path) -> None:
    """Each module can be imported, which compiles them once for all that follows."""
    compiled = f"pycache_prefix={tmp_path / 'compiled'}"
    paths = sorted((images.ROOT / "singrun").rglob("*.py"))
    names = [".".join(path.relative_to(images.ROOT).with_suffix("").parts) for path in paths]
    lines = [f"import {name}" for name in names if not name.endswith("__")]
    words = [python(version), "-I", "-W", "error", "-X", compiled, "-c", "\n".join(lines)]
    words[-1] = f"import sys; sys.path.insert(0, {str(images.ROOT)!r})\n{words[-1]}"
    subprocess.run(words, check=True)
    single = tmp_path / "singrun.pyz"
    words = [python(version), "-X", compiled, "-m", "singrun.bundle", str(single)]
    subprocess.run(words, check=True, cwd=images.ROOT)
    main = f"import sys; sys.path.insert(0, {str(single)!r}); from singrun.cli import main; main()"
    for start in (["-IS", "-B", "-X", compiled, MAIN], ["-IS", "-c", main]):
        done = subprocess.run(
            [python(version), *start, "--version"], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == (f"singrun {singrun.__version__}\n", "")
        assert done.returncode == 0
    words = [python(version), "-IS", "-B", "-X", compiled, MAIN, "doctor"]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"Python: {version}." in output


@pytest.mark.root
@pytest.mark.parametrize("version", SUPPORTED)
def test_an_image_runs(version: str, tmp_path: Path) -> None:
    image = images.ext3(images.fill(tmp_path / "tree"), tmp_path / "image.img")
    for options in (["--plan"], [], ["-c", "-p"], ["--writable-tmpfs", "--overlay", "/usr:ro"]):
        words = [python(version), "-IS", "-B", MAIN, "exec", *options, str(image), "true"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.root
@pytest.mark.parametrize("version", SUPPORTED)
def test_an_instance_starts(version: str, tmp_path: Path) -> None:
    image = images.ext3(images.fill(tmp_path / "tree"), tmp_path / "image.img")
    words, name = [python(version), "-IS", "-B", MAIN], f"python-{version}-{os.getpid()}"
    subprocess.run([*words, "start", str(image), name], check=True, timeout=15 * PATIENCE)
    subprocess.run([*words, "stop", name], check=True, timeout=15 * PATIENCE)


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8"])
def test_an_older_python_is_named(version: str) -> None:
    words = [python(version), "-IS", "-B", MAIN, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.startswith(f"singrun: Python 3.9 or later is needed; this is {version}")


def launcher_with(directory: Path, versions: list[str]) -> subprocess.CompletedProcess[str]:
    """Start the launcher where /usr/bin has python3 of these versions, in a mount namespace."""
    place = directory / "usr-bin"
    place.mkdir()
    for name in ("sh", "env", "readlink", "mount"):
        shutil.copy(f"/usr/bin/{name}", place / name)
    for version in versions:
        images.write_script(place / f"python{version}", f"#!/bin/sh\necho {version}\n")
    script = f"mount --bind {place} /usr/bin; exec {images.ROOT}/bin/singrun --version"
    words = ["unshare", "--mount", "sh", "-c", script]
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.root
@pytest.mark.parametrize(
    ("versions", "newest"),
    [(["3", "3.9", "3.6"], "3.9"), (["3", "3.9", "3.12", "3.10"], "3.12"), (["3"], "3")],
)
def test_the_launcher_takes_the_newest(tmp_path: Path, versions: list[str], newest: str) -> None:
    done = launcher_with(tmp_path, versions)
    assert done.stdout == f"{newest}\n", done


def test_a_python_may_be_named(tmp_path: Path) -> None:
    """By the launcher and by the one file; one that is too old is told of in a sentence."""
    single = tmp_path / "singrun.pyz"
    words = [images.PYTHON, "-B", "-m", "singrun.bundle", str(single)]
    subprocess.run(words, check=True, cwd=images.ROOT)
    images.write_script(
        tmp_path / "python", f'#!/bin/sh\necho named >&2\nexec {images.PYTHON} "$@"\n'
    )
    environment = {"PATH": os.defpath, "SINGRUN_PYTHON": str(tmp_path / "python")}
    for command in (images.ROOT / "bin/singrun", single):
        done = subprocess.run(
            [command, "--version"], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "named\n")
        assert done.stdout == f"singrun {singrun.__version__}\n"
