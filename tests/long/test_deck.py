"""The slides of 2016 that take long: Debian, and an archive of 2 GiB; the others: test_deck.py."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.bench import rpm_repository
from tests.bench.desk import CREATED, INVOKED, Desk, centos, desk, registry, use_mirror

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]
__all__ = ["centos", "desk", "registry"]

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
    output = desk.typed(f"(sleep 1; echo whoami; sleep 1; echo exit) | {terminal}")
    assert INVOKED in output.replace("\r", "")
    assert re.search(r"Singularity\.Debian\.img> ", output)
    assert desk.user.name in output
    kernel = subprocess.check_output(["uname", "-a"], text=True)
    lines = "uname -a\nwhoami\npwd\n./configure\n"
    output = desk.typed(
        f"cd project && printf '{lines}' | singularity shell ../Debian.img", status=1
    )
    assert kernel in output
    assert f"{desk.user.name}\n{project}\n" in output
    assert "no acceptable C compiler" in output
    for command, answer in (("uname -a", kernel), ("whoami", f"{desk.user.name}\n")):
        assert desk.typed(f"singularity exec Debian.img {command}") == answer
    assert desk.typed("cd project && singularity exec ../Debian.img pwd") == f"{project}\n"
    desk.typed("cd project && singularity exec ../Debian.img ./configure", status=1)
    happens = "This is what happens when you run the container...\n"
    assert desk.typed("singularity run Debian.img") == happens
    assert desk.typed("./Debian.img") == happens


@pytest.mark.usefixtures("debian")
def test_usage_and_option_examples(desk: Desk) -> None:
    output = desk.typed("singularity exec -p Debian.img ps auxf")
    assert len(output.splitlines()) <= 4  # the heading, an init, ps
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
    output = desk.typed("env -i FOO=BAR $(command -v singularity) exec Debian.img env")
    assert "FOO=BAR" in output.splitlines()


@pytest.mark.usefixtures("debian")
def test_changing_the_container(desk: Desk, registry: str) -> None:
    output = desk.typed("singularity exec Debian.img python --version", status=255)
    assert '"python": executable file not found' in output
    install = "apt-get -y install --no-install-recommends python-is-python3"
    output = desk.typed(f"sudo singularity exec --writable Debian.img {install}")
    assert output.startswith("Reading package lists...")
    assert "Setting up python-is-python3" in output
    version = desk.typed("singularity exec Debian.img python --version")
    assert version.startswith("Python 3.")
    number = version.split()[1]
    (Path(desk.user.home) / "hello.py").write_text(HELLO)
    hello = f"Hello World: The Python version is {number}\n"
    assert desk.typed("singularity exec Debian.img python ~/hello.py") == hello
    assert desk.typed("cat ~/hello.py | singularity exec Debian.img python") == hello
    use_mirror(desk, registry)
    line = "singularity exec docker://python:latest /usr/local/bin/python ~/hello.py"
    output = desk.typed(line)
    # One of its layers is ubuntu's, which is here already.
    layers = r"library/python:latest\n((Downloading|Using cached) layer: sha256:\w{64}\n){2}"
    assert re.match(layers, output)
    assert output.endswith("Hello World: The Python version is 3.5.2\n")
    subprocess.run(["e2fsck", "-fn", desk.directory / "Debian.img"], check=True)


def test_a_workflow(desk: Desk) -> None:
    loop = 'for i in $@; do\n        grep "$i" /etc/services\n    done'
    (desk.directory / "workflow.def").write_text(DEBIAN.format(runscript=loop, packages="netbase"))
    desk.typed("sudo singularity create Debian-workflow.img")
    output = desk.typed("sudo singularity create -F Debian-workflow.img")
    assert output == CREATED.format(size=768)
    output = desk.typed("sudo singularity bootstrap Debian-workflow.img workflow.def")
    assert re.search("^Setting up netbase ", output, re.MULTILINE)
    output = desk.typed("singularity run Debian-workflow.img ^http")
    names = [line.split()[:2] for line in output.splitlines()]
    assert ["http", "80/tcp"] in names
    assert ["https", "443/tcp"] in names
    assert ["http-alt", "8080/tcp"] in names
    desk.typed(f"sudo mv Debian-workflow.img {desk.directory}/bin/service_lookup")
    output = desk.typed("service_lookup ^ftp ^smtp")
    assert [line.split()[0] for line in output.splitlines()][:2] == ["ftp-data", "ftp"]
    assert "smtp" in output.split()


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


def test_a_recipe_that_computes_in_its_test(desk: Desk, tmp_path: Path) -> None:
    write_wheel(tmp_path / WHEEL)
    output = desk.typed("sudo singularity create --size 4096 Tensor.img")
    assert output == CREATED.format(size=4096)
    with rpm_repository.served(tmp_path) as url:
        (desk.directory / "tensor.def").write_text(TENSOR.format(wheel=f"{url}/{WHEEL}"))
        lines = desk.typed("sudo singularity bootstrap Tensor.img tensor.def").splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("Minibatch")] == [
        ["Minibatch", "1"],
        ["Minibatch", "2"],
        ["Minibatch", "3"],
    ]
    assert lines[-2:] == ["Test error: 0.8%", "Done."]


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
