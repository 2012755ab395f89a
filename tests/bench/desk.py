"""Where the slides of 2016 are typed: the three commands, and a registry on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from singbuild_docker.reference import DOCKER

from tests.bench import docker_images, docker_registry, installation, rpm_repository
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory
from tests.bench.singrun_images import Person


class Desk:
    """Where the slides are typed: a directory of /tmp's kind, root's and the user's shells.

    A line is executed by /bin/sh; ``sudo`` in front of it means root.
    """

    def __init__(self, directory: Path, user: str) -> None:
        self.directory = directory
        self.user = Person(user, Path("singularity"))
        self.root = Person("root", Path("singularity"))
        self.path = f"{directory}/bin:{os.environ['PATH']}"

    def typed(self, line: str, *, status: int = 0) -> str:
        """Return what a line prints, on both streams; ``status`` must be its exit status."""
        person = self.root if line.startswith("sudo ") else self.user
        variables = person.environment() | {
            "PATH": self.path,
            "SINGBUILD_TMPDIR": str(self.directory / f"scratch-{person.name}"),
            "SINGBUILD_CACHEDIR": str(self.directory / f"cache-{person.name}"),
        }
        shell = person.words("sh", "-c", f"exec 2>&1; {line.removeprefix('sudo ')}")
        done = subprocess.run(
            shell, check=False, capture_output=True, env=variables, cwd=self.directory, timeout=600
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == status, f"$ {line}\n{output}"
        return output


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with shared_directory() as directory, images.ordinary_user() as user:
        (directory / "bin").mkdir()
        for name in ("singbuild", "singrun", "singularity"):
            (directory / "bin" / name).symlink_to(installation.programs() / name)
        for name in ("root", user):
            for kind in ("scratch", "cache"):
                place = directory / f"{kind}-{name}"
                place.mkdir()
                shutil.chown(place, name)
        directory.chmod(0o1777)
        yield Desk(directory, user)
        images.wait_for_daemons(str(directory))


@pytest.fixture(scope="module")
def centos(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The recipe of the CentOS slides, its mirror on loopback; served for the whole walk."""
    if not rpm_repository.have_programs():
        pytest.skip("needs dnf and rpm's tools")
    base = tmp_path_factory.mktemp("rpms")
    repository = rpm_repository.make(base)
    mirror = tmp_path_factory.mktemp("mirror")
    machine = os.uname().machine
    (mirror / "7/os").mkdir(parents=True)
    shutil.copytree(repository, mirror / "7/os" / machine)
    with rpm_repository.served(mirror) as url:
        (desk.directory / "centos.def").write_text(
            "BootStrap: yum\nOSVersion: 7\n"
            f"MirrorURL: {url}/%{{OSVERSION}}/os/%{{BASEARCH}}\n"
            f"GPGKey: {url}/7/os/{machine}/RPM-GPG-KEY-site\n"
            'Include: @tools\n%runscript\n    echo "Arguments received: $*"\n'
        )
        desk.typed("sudo singularity create --size 2048 Centos-7.img")
        yield desk.typed("sudo singularity bootstrap Centos-7.img centos.def")


CREATED = """\
Creating a new image with a maximum size of {size}MiB...
Executing image create helper
Formatting image with ext3 file system
Done.
"""
INVOKED = "Singularity: Invoking an interactive shell within container...\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with ubuntu and python, which are what this host's Debian has of them."""
    with docker_registry.genuine(tmp_path_factory.mktemp("registry")) as server:
        files = docker_images.file
        busybox = Path(str(shutil.which("busybox"))).read_bytes()
        applets = ("sh", "cat", "which", "uname", "env", "ls")
        system = docker_images.archive(
            docker_images.directory("bin"),
            files("bin/busybox", busybox, mode=0o755),
            *(docker_images.hardlink(f"bin/{name}", "bin/busybox") for name in applets),
        )
        release = docker_images.archive(
            files("etc/lsb-release", b"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=16.04\n"),
            files("usr/bin/apt-get", b"#!/bin/sh\n", mode=0o755),
        )
        docker_registry.push(docker_images.image(system, release), server, "library/ubuntu")
        python = docker_images.archive(files("usr/local/bin/python", PYTHON.encode(), mode=0o755))
        docker_registry.push(docker_images.image(system, python), server, "library/python")
        yield server


# An interpreter for the one program of the slide: the loopback's images have no Python.
PYTHON = """\
#!/bin/sh
grep -q sys.version_info "${1:-/dev/stdin}" && echo "Hello World: The Python version is 3.5.2"
"""


def use_mirror(desk: Desk, registry: str) -> None:
    """Have Docker's own registry stood in for by another, as a site without the internet does."""
    path = Path(desk.user.home) / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'[[registry]]\nprefix = "{DOCKER}"\n[[registry.mirror]]\nlocation = "{registry}"\n'
    )
    path.chmod(0o644)
