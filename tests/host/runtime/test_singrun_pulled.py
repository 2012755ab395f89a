"""``singrun exec docker://…``: built once, by whoever asks, and then an image like any other."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import docker_images, docker_registry, installation
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory
from tests.bench.singrun_images import Person

pytestmark = [pytest.mark.root, pytest.mark.network]


def result(text: bytes) -> docker_images.ContainerImage:
    busybox = Path(str(shutil.which("busybox"))).read_bytes()
    archive = docker_images.archive(
        docker_images.file("bin/busybox", busybox, mode=0o755),
        *(docker_images.symlink(f"bin/{name}", "busybox") for name in ("sh", "cat", "id")),
        docker_images.file("text", text, uid=5, gid=6),
    )
    return docker_images.image(archive)


@pytest.fixture
def person() -> Iterator[Person]:
    programs = installation.programs()
    with images.ordinary_user() as name:
        somebody = Person(name, programs / "singrun")
        somebody.variables["PATH"] = f"{programs}:/usr/bin:/bin"
        yield somebody
        images.wait_for_daemons(name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with docker_registry.genuine(tmp_path) as address:
        docker_registry.push(result(b"first\n"), address, "library/some")
        yield address


def test_an_image_is_fetched_once(person: Person, server: str) -> None:
    name = f"docker://{server}/library/some:latest"
    done = person.singrun("exec", name, "cat", "/text")
    assert (done.returncode, done.stdout) == (0, b"first\n"), done.stderr
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "library/some:latest"
    assert lines[1].startswith("Downloading layer: sha256:")
    again = person.singrun("exec", name, "sh", "-c", "echo $SINGULARITY_NAME; id -u")
    assert (again.stdout.decode(), again.stderr) == (f"some:latest\n{person.uid}\n", b"")
    docker_registry.push(result(b"second\n"), server, "library/some")
    assert person.singrun("exec", name, "cat", "/text").stdout == b"first\n"
    assert person.singrun("exec", "--fetch", name, "cat", "/text").stdout == b"second\n"
    piped = person.singrun("exec", name, "sh", input=b"cat /text\n")
    assert piped.stdout == b"second\n"


def test_the_second_start_does_not_need_the_builder(person: Person, server: str) -> None:
    name = f"docker://{server}/library/some"
    assert person.singrun("run", name, "sh", "-c", "exit 3").returncode == 3
    trace = person.call(
        "strace", "-f", "-e", "execve", person.launcher, "exec", name, "cat", "/text"
    )
    assert b"first" in trace.stdout
    assert b"singbuild" not in trace.stderr.replace(b"/singbuild/pulled/", b"")


def test_many_at_once_build_once(person: Person, server: str) -> None:
    words = person.words(person.launcher, "exec", f"docker://{server}/library/some", "cat", "/text")
    started = [
        subprocess.Popen(words, stdout=-1, stderr=-1, env=person.environment(), cwd=person.home)
        for _ in range(6)
    ]
    output = [process.communicate() for process in started]
    assert [out for out, _ in output] == [b"first\n"] * 6
    assert sum(b"Downloading layer" in err for _, err in output) == 1


def test_layouts_and_archives_are_images_too(person: Person, tmp_path: Path) -> None:
    home = Path(person.home)
    docker_images.write_layout(home / "layout", {"latest": result(b"a layout\n")})
    subprocess.run(["chown", "-R", person.name, home / "layout"], check=True)
    done = person.singrun("exec", "oci:layout", "cat", "/text")
    assert (done.returncode, done.stdout) == (0, b"a layout\n"), done.stderr


def test_what_cannot_be_had_is_said(person: Person, server: str) -> None:
    for words, reason in (
        ((f"docker://{server}/library/none",), b"no such image"),
        (("docker://127.0.0.1:1/library/some",), b"singbuild ended with status 6"),
        (("docker:/host/x",), b"docker:/host/x: '/host/x' is no name of an image\n'/host"),
        (("docker://",), b"names no image"),
        (("oci:nothing.here",), b"Cannot open"),
    ):
        done = person.singrun("exec", *words, "true")
        assert done.returncode in (1, 255)
        assert reason in done.stderr, done.stderr
    leftovers = [
        *Path(person.home).rglob("*.part"),
        *Path(person.home).rglob("singbuild-scratch-*"),
    ]
    assert not leftovers
    assert len(person.output("cache", "list").splitlines()) == 1


def test_a_runtime_alone_says_what_it_lacks(tmp_path: Path) -> None:
    with shared_directory() as directory:
        launcher = images.installed(directory)
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            [launcher, "exec", "docker://some", "true"], capture_output=True, env=environment
        )
    assert done.returncode == 255
    assert b"singbuild is not installed" in done.stderr
