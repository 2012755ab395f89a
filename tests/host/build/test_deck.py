"""The slides of 2016, line by line, as typed; only mirrors and registries are loopback's."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.bench.desk import CREATED, Desk, centos, desk, registry, use_mirror

pytestmark = [pytest.mark.root, pytest.mark.network]
__all__ = ["centos", "desk", "registry"]


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
    output = desk.typed("echo 'cat /etc/redhat-release' | singularity shell Centos-7.img")
    assert output.endswith(release)
    assert desk.typed('singularity exec Centos-7.img echo "Hello World"') == "Hello World\n"
    assert desk.typed("singularity run Centos-7.img a b") == "Arguments received: a b\n"


@pytest.mark.usefixtures("centos")
def test_the_container_is_modified(desk: Desk) -> None:
    desk.typed("sudo echo 'rm /usr/bin/hello' | singularity shell --writable Centos-7.img")
    assert "not found" in desk.typed("singularity exec Centos-7.img hello", status=255)


@pytest.mark.usefixtures("centos")
def test_programs_are_copied_into_the_container(desk: Desk) -> None:
    script = desk.directory / "script.py"
    script.write_text("#!/bin/sh\necho this is the script\n")
    script.chmod(0o755)
    desk.typed("sudo singularity copy Centos-7.img script.py /usr/bin/")
    output = desk.typed("singularity exec Centos-7.img /usr/bin/script.py")
    assert output == "this is the script\n"


def test_a_container_from_docker_hub(desk: Desk, registry: str) -> None:
    use_mirror(desk, registry)
    output = desk.typed(
        "printf 'cat /etc/lsb-release\\nwhich apt-get\\n' | singularity shell docker://ubuntu:latest"
    )
    lines = output.splitlines()
    assert lines[0] == "library/ubuntu:latest"
    assert all(re.fullmatch("Downloading layer: sha256:[0-9a-f]{64}", line) for line in lines[1:3])
    assert lines[-3:] == ["DISTRIB_ID=Ubuntu", "DISTRIB_RELEASE=16.04", "/usr/bin/apt-get"]


def test_an_image_of_docker_hub_is_imported(desk: Desk, registry: str) -> None:
    use_mirror(desk, registry)
    desk.typed("singularity create --size 32 Hub.img")
    output = desk.typed("singularity import Hub.img docker://nobody/none:latest", status=255)
    assert "nobody/none" in output
    desk.typed("singularity import Hub.img docker://ubuntu:latest")
    output = desk.typed("singularity exec Hub.img cat /etc/lsb-release")
    assert output == "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=16.04\n"
    subprocess.run(["e2fsck", "-fn", desk.directory / "Hub.img"], check=True)


def test_a_new_image_is_empty(desk: Desk) -> None:
    output = desk.typed("sudo singularity create Debian.img")
    assert output == CREATED.format(size=768)
    assert (desk.directory / "Debian.img").stat().st_size == 768 << 20
    assert desk.typed("ls -l Debian.img").startswith("-rwxr-xr-x 1 root root 805306368 ")
    output = desk.typed("./Debian.img", status=255)
    assert "Container does not have a valid /bin/sh" in output
    assert "exists" in desk.typed("sudo singularity create Debian.img", status=255)
