"""Images for another kind of machine: chosen from an index, made here, and not executed here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.bench.builds import Build
from tests.bench.docker_images import INDEX, ContainerImage, archive, file, image, index, symlink
from tests.bench.docker_registry import genuine, push, put_manifest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the other machine is aarch64"),
]
E_MACHINE, AARCH64 = 18, 183  # elf(5)


def result(arch: str) -> ContainerImage:
    """An image with a shell; one for arm64 says so in its header, which is all that counts here."""
    shell = bytearray(Path("/bin/busybox").read_bytes())
    if arch == "arm64":
        shell[E_MACHINE] = AARCH64
    tree = archive(file("bin/busybox", bytes(shell), mode=0o755), symlink("bin/sh", "busybox"))
    return image(tree, archive(file(f"for-{arch}")), arch=arch)


@pytest.fixture
def name(tmp_path: Path) -> Iterator[str]:
    images = {arch: result(arch) for arch in ("amd64", "arm64")}
    with genuine(tmp_path) as server:
        for arch, each in images.items():
            push(each, server, "x", arch)
        entries = [each.descriptor(os="linux", architecture=arch) for arch, each in images.items()]
        put_manifest(index(*entries), INDEX, server, "x", "latest")
        yield f"{server}/x"


def names(path: Path) -> list[str]:
    """What an image holds, read without mounting it."""
    argv = ["debugfs", "-R", "ls -p /", str(path)]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split("/")[5] for line in lines if line.startswith("/") and "for-" in line]


def test_the_image_for_another_machine_is_made_here(
    name: str, singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    header = f"Bootstrap: docker\nFrom: {name}\n"
    text = recipe(f"{header}%environment\n    export A=1\n%runscript\n    echo here\n")
    for words, expected in (
        (("build", text, "here.img"), "amd64"),
        (("build", "--arch", "arm64", text, "a.img"), "arm64"),
        (("pull", "--arch", "aarch64", f"docker://{name}", "b.img"), "arm64"),
    ):
        done = singbuild(*words)
        assert done.returncode == 0, done.stderr
        assert names(tmp_path / str(words[-1])) == [f"for-{expected}"]
    assert singbuild("lock", "--arch", "arm64", text).returncode == 0
    lock = yaml.safe_load((tmp_path / "recipe.lock.yaml").read_text())
    assert (lock["arch"], lock["pins"]["platform"]) == ("aarch64", "linux/arm64")
    done = singbuild("build", "--locked", "--arch", "arm64", "--force", text, "a.img")
    assert done.returncode == 0, done.stderr
    done = singbuild("build", "--locked", "--force", text, "a.img")
    assert done.returncode == 6
    assert "is for linux/arm64, not for linux/amd64" in done.stderr


def test_its_programs_cannot_be_executed_and_that_is_said(
    name: str, singbuild: Build, recipe: Callable[[str], Path], nothing_left: Callable[[], None]
) -> None:
    text = recipe(f"Bootstrap: docker\nFrom: {name}\n%post\n    true\n")
    done = singbuild("build", "--arch", "arm64", text, "a.img")
    assert done.returncode == 7, done.stderr
    assert "warning: %post is executed in an image for aarch64: this machine, x86_64" in done.stderr
    assert "Exec format error" in done.stderr
    nothing_left()


def test_what_there_is_not_is_said(
    name: str, singbuild: Build, recipe: Callable[[str], Path], nothing_left: Callable[[], None]
) -> None:
    done = singbuild("build", "--arch=s390x", recipe(f"Bootstrap: docker\nFrom: {name}\n"), "a.img")
    assert done.returncode == 6
    assert "no image for linux/s390x" in done.stderr
    assert "linux/amd64, linux/arm64" in done.stderr
    done = singbuild("build", "--arch=arm64", recipe("Bootstrap: busybox\n"), "a.img")
    assert done.returncode == 2
    assert "busybox builds for the machine that it is on" in done.stderr
    nothing_left()
