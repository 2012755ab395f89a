"""The recipes that need a registry or an Enterprise Linux mirror: one image each, from loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench import docker_images, docker_registry, rpm_repository
from tests.bench.builds import SINGBUILD
from tests.bench.singrun_images import ROOT
from tests.host.build.test_reproducible import LIBFAKETIME, twice

pytestmark = pytest.mark.root
needs_rpm = pytest.mark.skipif(
    not rpm_repository.have_programs(), reason="needs dnf and rpm's tools"
)

PACKAGE = r"""
Requires: {needs}
%description
%{{summary}}
%install
mkdir -p %{{buildroot}}/usr/bin
printf '#!/bin/sh\n{says}\n' > %{{buildroot}}/usr/bin/{program}
%files
%attr(755,root,root) /usr/bin/{program}
"""


def package(program: str, says: str = "exit 0", needs: str = "/bin/sh") -> str:
    """The spec of a package with one script."""
    return PACKAGE.format(program=program, says=says, needs=needs)


# busybox takes its own rpm for the image's.
SHELL = r"""
Requires: filesystem
Provides: /bin/sh
%description
%{summary}
%install
mkdir -p %{buildroot}/bin
cp "$(command -v busybox)" %{buildroot}/bin/busybox
cp -L /bin/dash %{buildroot}/bin/bash
ln -s bash %{buildroot}/bin/sh
for file in $(ldd /bin/dash LIBFAKETIME | grep -o '[[:space:]]/[^ ]*'); do
    mkdir -p "%{buildroot}$(dirname "$file")"
    cp -L "$file" "%{buildroot}$file"
done
%files
/*
""".replace("LIBFAKETIME", LIBFAKETIME)  # which the programs of the second build are given
# What the recipes install and ask for in %test; the small distribution has no more of it.
PACKAGES = {
    "bash": SHELL,
    "yum": package("yum", needs="rpm"),
    "dnf": package("dnf"),
    "gcc": package("gcc", "echo gcc"),
    "glibc-langpack-en": package("locale", "echo en_US.utf8"),
}


def locked_twice(recipe: Path, text: str, tmp_path: Path, *words: str) -> None:
    """Lock a recipe, then build it on two hosts from that lock."""
    copy = tmp_path / recipe.name
    copy.write_text(text)
    subprocess.run([*SINGBUILD, "lock", *words, copy], check=True, stdout=subprocess.DEVNULL)
    twice(str(copy), tmp_path, "--no-cache", "--locked", *words)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed repository with what the two recipes name."""
    base = tmp_path_factory.mktemp("rpms")
    www = rpm_repository.make(base)
    maker = rpm_repository.Maker(base)
    files = [maker.rpm(name, text) for name, text in PACKAGES.items()]
    maker.sign(files, "site")
    for file in files:
        shutil.copy(file, www)
    rpm_repository.index(www)
    return www


@needs_rpm
def test_centos7(packages: Path, tmp_path: Path) -> None:
    machine = os.uname().machine
    for part in ("os", "updates"):
        shutil.copytree(packages, tmp_path / f"mirror/7/{part}/{machine}")
    key = f"key={packages / 'RPM-GPG-KEY-site'}"
    recipe = ROOT / "recipes/centos7.def"
    with rpm_repository.served(tmp_path / "mirror") as url:
        words = ("--build-arg", f"mirror={url}", "--build-arg", key)
        locked_twice(recipe, recipe.read_text(), tmp_path, *words)


@needs_rpm
def test_rocky(packages: Path, tmp_path: Path) -> None:
    machine = os.uname().machine
    for part in ("BaseOS", "AppStream"):
        shutil.copytree(packages, tmp_path / f"mirror/9/{part}/{machine}/os")
    key = f"key={packages / 'RPM-GPG-KEY-site'}"
    recipe = ROOT / "recipes/rocky.def"
    with rpm_repository.served(tmp_path / "mirror") as url:
        words = ("--build-arg", f"mirror={url}", "--build-arg", key)
        locked_twice(recipe, recipe.read_text(), tmp_path, *words)


def python_image() -> docker_images.ContainerImage:
    """The host's own Python and busybox as two layers."""
    loaded = subprocess.check_output(["ldd", "/usr/bin/python3"], text=True).split()
    library = "/usr/lib/python3." + str(
        subprocess.check_output(["/usr/bin/python3", "-c", PRINT_MINOR], text=True).strip()
    )
    names = ["/usr/bin/python3", library, *(word for word in loaded if word[0] == "/")]
    keep = ["--exclude=__pycache__", "--exclude=*/dist-packages/*", "--exclude=*/test/*"]
    command = ["tar", "-C", "/", "-chf", "-", "--sort=name", *keep]
    system = subprocess.check_output([*command, *(name.lstrip("/") for name in names)])
    busybox = Path(str(shutil.which("busybox"))).read_bytes()
    tools = docker_images.archive(
        docker_images.directory("bin"),
        docker_images.file("bin/busybox", busybox, mode=0o755),
        *(
            docker_images.symlink(f"bin/{name}", "busybox")
            for name in ("sh", "cat", "mkdir", "grep")
        ),
    )
    return docker_images.image(system, tools, config={"Env": ["PATH=/usr/bin:/bin"]})


PRINT_MINOR = "import sys; print(sys.version_info[1])"


def test_docker_python(tmp_path: Path) -> None:
    recipe = ROOT / "recipes/docker-python.def"
    (tmp_path / "registry").mkdir()
    with docker_registry.genuine(tmp_path / "registry") as server:
        docker_registry.push(python_image(), server, "python", "3")
        text = recipe.read_text().replace("#Registry: 127.0.0.1:5000", f"Registry: {server}")
        assert server in text
        locked_twice(recipe, text, tmp_path)
