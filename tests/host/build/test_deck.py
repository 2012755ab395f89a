"""The slides of 2016, line by line, as typed; only mirrors and registries are loopback's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from singbuild_docker.reference import DOCKER

from tests.bench import docker_images, docker_registry, rpm_repository
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT, Person

pytestmark = [pytest.mark.root, pytest.mark.network]

DEBIAN = """\
# Copyright (c) 2015-2016, Gregory M. Kurtzer. All rights reserved.
#
# "Singularity" Copyright (c) 2016, The Regents of the University of California,
# through Lawrence Berkeley National Laboratory (subject to receipt of any
# required approvals from the U.S. Dept. of Energy). All rights reserved.

BootStrap: debootstrap
OSVersion: stable

%runscript
    {runscript}

%post
    echo "Hello from inside the container"
    apt-get update
    apt-get -y install {packages}
"""
HELLO = """\
#!/usr/bin/python
import sys
print("Hello World: The Python version is %s.%s.%s" % sys.version_info[:3])
"""


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
        said = done.stdout.decode(errors="replace")
        assert done.returncode == status, f"$ {line}\n{said}"
        return said


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with shared_directory() as directory, images.ordinary_user() as user:
        (directory / "bin").mkdir()
        install(directory)
        for name in ("root", user):
            for kind in ("scratch", "cache"):
                place = directory / f"{kind}-{name}"
                place.mkdir()
                shutil.chown(place, name)
        directory.chmod(0o1777)
        yield Desk(directory, user)
        images.wait_for_daemons(str(directory))


def install(directory: Path) -> None:
    """Put the three commands on the desk's PATH, from a checkout that every user may read."""
    checkout = directory / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", ".*", "tests")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    subprocess.run(["chmod", "-R", "a+rX", checkout], check=True)
    python = directory / "python"
    subprocess.run(["/usr/bin/python3", "-m", "venv", python], check=True)
    subprocess.run([python / "bin/pip", "install", "-q", checkout], check=True)
    for name in ("singbuild", "singrun", "singularity"):
        (directory / "bin" / name).symlink_to(python / "bin" / name)


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


def test_centos_is_bootstrapped(centos: str) -> None:
    lines = centos.splitlines()
    assert lines[:3] == [
        "Bootstrap initialization",
        "Checking bootstrap definition",
        "Executing Prebootstrap module",
    ]
    assert "Executing Bootstrap 'yum' module" in lines
    assert lines[-1] == "Done."


@pytest.mark.usefixtures("centos")
def test_now_we_have_a_container(desk: Desk) -> None:
    release = "Mini Linux release 7\n"
    said = desk.typed("echo 'cat /etc/redhat-release' | singularity shell Centos-7.img")
    assert said.endswith(release)
    assert desk.typed('singularity exec Centos-7.img echo "Hello World"') == "Hello World\n"
    assert desk.typed("singularity run Centos-7.img a b") == "Arguments received: a b\n"


@pytest.mark.usefixtures("centos")
def test_the_container_is_modified(desk: Desk) -> None:
    desk.typed("sudo echo 'rm /usr/bin/hello' | singularity shell --writable Centos-7.img")
    assert "not found" in desk.typed("singularity exec Centos-7.img hello", status=127)


@pytest.mark.usefixtures("centos")
def test_programs_are_copied_into_the_container(desk: Desk) -> None:
    script = desk.directory / "script.py"
    script.write_text("#!/bin/sh\necho this is the script\n")
    script.chmod(0o755)
    desk.typed("sudo singularity copy Centos-7.img script.py /usr/bin/")
    said = desk.typed("singularity exec Centos-7.img /usr/bin/script.py")
    assert said == "this is the script\n"


@pytest.mark.usefixtures("centos")
def test_the_container_is_archived(desk: Desk) -> None:
    desk.typed("gzip -c9 Centos-7.img > Centos-7.img.gz")
    size, packed = (
        (desk.directory / name).stat().st_size for name in ("Centos-7.img", "Centos-7.img.gz")
    )
    assert size == 2048 << 20
    assert packed < size / 100
    desk.typed("gunzip -c Centos-7.img.gz > again.img; chmod 755 again.img")
    assert desk.typed("./again.img x") == "Arguments received: x\n"


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


def test_a_container_from_docker_hub(desk: Desk, registry: str) -> None:
    use_mirror(desk, registry)
    said = desk.typed(
        "printf 'cat /etc/lsb-release\\nwhich apt-get\\n' | singularity shell docker://ubuntu:latest"
    )
    lines = said.splitlines()
    assert lines[0] == "library/ubuntu:latest"
    assert all(re.fullmatch("Downloading layer: sha256:[0-9a-f]{64}", line) for line in lines[1:3])
    assert lines[-3:] == ["DISTRIB_ID=Ubuntu", "DISTRIB_RELEASE=16.04", "/usr/bin/apt-get"]


def test_an_image_of_docker_hub_is_imported(desk: Desk, registry: str) -> None:
    use_mirror(desk, registry)
    desk.typed("singularity create --size 32 Hub.img")
    said = desk.typed("singularity import Hub.img docker://nobody/none:latest", status=6)
    assert "nobody/none" in said
    desk.typed("singularity import Hub.img docker://ubuntu:latest")
    said = desk.typed("singularity exec Hub.img cat /etc/lsb-release")
    assert said == "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=16.04\n"
    subprocess.run(["e2fsck", "-fn", desk.directory / "Hub.img"], check=True)


def test_a_new_image_is_empty(desk: Desk) -> None:
    said = desk.typed("sudo singularity create Debian.img")
    assert said == CREATED.format(size=768)
    assert (desk.directory / "Debian.img").stat().st_size == 768 << 20
    assert desk.typed("ls -l Debian.img").startswith("-rwxr-xr-x 1 root root 805306368 ")
    said = desk.typed("./Debian.img", status=255)
    assert "Container does not have a valid /bin/sh" in said
    assert "exists" in desk.typed("sudo singularity create Debian.img", status=8)


@pytest.fixture(scope="module")
def debian(desk: Desk) -> str:
    (desk.directory / "debian.def").write_text(
        DEBIAN.format(
            runscript='echo "This is what happens when you run the container..."', packages="procps"
        )
    )
    desk.typed("sudo singularity create --force Debian.img")
    return desk.typed("sudo singularity bootstrap Debian.img debian.def")


def test_debian_is_bootstrapped(debian: str) -> None:
    lines = debian.splitlines()
    assert lines[0] == "Bootstrap initialization"
    assert "Executing Bootstrap 'debootstrap' module" in lines
    assert "Hello from inside the container" in lines
    assert any(line.startswith("Setting up procps ") for line in lines)
    assert lines[-1] == "Done."


@pytest.mark.usefixtures("debian")
def test_using_the_new_container(desk: Desk) -> None:
    project = desk.directory / "project"
    project.mkdir()
    (project / "configure").write_text(
        "#!/bin/sh\necho 'checking for a C compiler...'\n"
        "command -v cc || { echo 'no acceptable C compiler found in $PATH'; exit 1; }\n"
    )
    (project / "configure").chmod(0o755)
    terminal = "script -qec 'singularity shell Debian.img' /dev/null"
    said = desk.typed(f"(sleep 1; echo whoami; sleep 1; echo exit) | {terminal}")
    assert INVOKED in said.replace("\r", "")
    assert re.search(r"Singularity\.Debian\.img> ", said)
    assert desk.user.name in said
    kernel = subprocess.check_output(["uname", "-a"], text=True)
    lines = "uname -a\nwhoami\npwd\n./configure\n"
    said = desk.typed(f"cd project && printf '{lines}' | singularity shell ../Debian.img", status=1)
    assert kernel in said
    assert f"{desk.user.name}\n{project}\n" in said
    assert "no acceptable C compiler" in said
    for command, answer in (("uname -a", kernel), ("whoami", f"{desk.user.name}\n")):
        assert desk.typed(f"singularity exec Debian.img {command}") == answer
    assert desk.typed("cd project && singularity exec ../Debian.img pwd") == f"{project}\n"
    desk.typed("cd project && singularity exec ../Debian.img ./configure", status=1)
    happens = "This is what happens when you run the container...\n"
    assert desk.typed("singularity run Debian.img") == happens
    assert desk.typed("./Debian.img") == happens


@pytest.mark.usefixtures("debian")
def test_usage_and_option_examples(desk: Desk) -> None:
    said = desk.typed("singularity exec -p Debian.img ps auxf")
    assert len(said.splitlines()) <= 4  # the heading, an init, ps
    home = desk.user.home
    desk.typed("echo 'touch ~/lost' | singularity shell --contain Debian.img")
    assert not (Path(home) / "lost").exists()
    desk.typed("mkdir -p ~/git")
    desk.typed("echo 'touch ~/kept' | singularity shell --contain --home ~/git Debian.img")
    assert (Path(home) / "git/kept").exists()
    (desk.directory / "seen").touch()
    line = f"echo 'ls /opt' | singularity shell --bind {desk.directory}:/opt Debian.img"
    assert "seen" in desk.typed(line).split()


@pytest.mark.usefixtures("debian")
def test_the_environment_goes_in(desk: Desk) -> None:
    desk.typed("singularity exec Debian.img env")
    many = int(desk.typed("MORE=1 THINGS=2 singularity exec Debian.img env | wc -l"))
    few = int(desk.typed("env -i $(command -v singularity) exec Debian.img env | wc -l"))
    assert few < many
    said = desk.typed("env -i FOO=BAR $(command -v singularity) exec Debian.img env")
    assert "FOO=BAR" in said.splitlines()


@pytest.mark.usefixtures("debian")
def test_changing_the_container(desk: Desk, registry: str) -> None:
    said = desk.typed("singularity exec Debian.img python --version", status=127)
    assert "python: not found" in said
    install = "apt-get -y install --no-install-recommends python-is-python3"
    said = desk.typed(f"sudo singularity exec --writable Debian.img {install}")
    assert said.startswith("Reading package lists...")
    assert "Setting up python-is-python3" in said
    version = desk.typed("singularity exec Debian.img python --version")
    assert version.startswith("Python 3.")
    number = version.split()[1]
    (Path(desk.user.home) / "hello.py").write_text(HELLO)
    hello = f"Hello World: The Python version is {number}\n"
    assert desk.typed("singularity exec Debian.img python ~/hello.py") == hello
    assert desk.typed("cat ~/hello.py | singularity exec Debian.img python") == hello
    use_mirror(desk, registry)
    line = "singularity exec docker://python:latest /usr/local/bin/python ~/hello.py"
    said = desk.typed(line)
    # One of its layers is ubuntu's, which is here already.
    layers = r"library/python:latest\n((Downloading|Using cached) layer: sha256:\w{64}\n){2}"
    assert re.match(layers, said)
    assert said.endswith("Hello World: The Python version is 3.5.2\n")
    subprocess.run(["e2fsck", "-fn", desk.directory / "Debian.img"], check=True)


@pytest.mark.long
def test_a_workflow(desk: Desk) -> None:
    loop = 'for i in $@; do\n        grep "$i" /etc/services\n    done'
    (desk.directory / "workflow.def").write_text(DEBIAN.format(runscript=loop, packages="netbase"))
    desk.typed("sudo singularity create Debian-workflow.img")
    said = desk.typed("sudo singularity create -F Debian-workflow.img")
    assert said == CREATED.format(size=768)
    said = desk.typed("sudo singularity bootstrap Debian-workflow.img workflow.def")
    assert re.search("^Setting up netbase ", said, re.MULTILINE)
    said = desk.typed("singularity run Debian-workflow.img ^http")
    names = [line.split()[:2] for line in said.splitlines()]
    assert ["http", "80/tcp"] in names
    assert ["https", "443/tcp"] in names
    assert ["http-alt", "8080/tcp"] in names
    desk.typed(f"sudo mv Debian-workflow.img {desk.directory}/bin/service_lookup")
    said = desk.typed("service_lookup ^ftp ^smtp")
    assert [line.split()[0] for line in said.splitlines()][:2] == ["ftp-data", "ftp"]
    assert "smtp" in said.split()


TENSOR = """\
BootStrap: debootstrap
OSVersion: stable

%runscript
    exec /usr/bin/python3

%post
    apt-get update
    apt-get -y --no-install-recommends install python3-minimal python3-pip
    pip install --break-system-packages --upgrade {wheel}

%test
    # This runs for a while, and says how far it is
    python3 -m minimnist
"""


COMPUTES = """\
for step in range(1, 4):
    loss = sum(i * i for i in range(300000 * step)) % 97
    print("Minibatch", step, "loss:", loss, flush=True)
print("Test error: 0.8%")
"""
WHEEL = "minimnist-1.0-py3-none-any.whl"


def write_wheel(path: Path) -> None:
    """A distribution of one module, as PEP 427 has it."""
    files = {
        "minimnist.py": COMPUTES,
        "minimnist-1.0.dist-info/METADATA": "Metadata-Version: 2.1\n"
        "Name: minimnist\nVersion: 1.0\n",
        "minimnist-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        names = [*files, "minimnist-1.0.dist-info/RECORD"]
        wheel.writestr(names[-1], "".join(f"{name},,\n" for name in names))


@pytest.mark.long
def test_a_recipe_that_computes_in_its_test(desk: Desk, tmp_path: Path) -> None:
    write_wheel(tmp_path / WHEEL)
    said = desk.typed("sudo singularity create --size 4096 Tensor.img")
    assert said == CREATED.format(size=4096)
    with rpm_repository.served(tmp_path) as url:
        (desk.directory / "tensor.def").write_text(TENSOR.format(wheel=f"{url}/{WHEEL}"))
        lines = desk.typed("sudo singularity bootstrap Tensor.img tensor.def").splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("Minibatch")] == [
        ["Minibatch", "1"],
        ["Minibatch", "2"],
        ["Minibatch", "3"],
    ]
    assert lines[-2:] == ["Test error: 0.8%", "Done."]
