"""``singrun mount``: an image at a directory, for one command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "root, fuse2fs", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def place(person: Person) -> Iterator[Path]:
    result = Path(person.home) / f"place-{os.getpid()}"  # root's home is others', too
    assert person.call("mkdir", result).returncode == 0
    yield result
    result.rmdir()


def test_an_image_is_seen_at_a_directory(person: Person, bench: Bench, place: Path) -> None:
    done = person.singrun("mount", bench.image, place, "ls", place / "bin")
    assert done.returncode == 0, done.stderr
    assert b"sh\n" in done.stdout
    assert not [*place.iterdir()]
    done = person.singrun("mount", bench.image, place, "sh", "-c", "exit 7")
    assert done.returncode == 7
    done = person.singrun("mount", bench.image, place, "id", "-u")
    assert done.stdout.decode() == f"{person.uid}\n"


def test_what_is_written_stays(person: Person, bench: Bench, place: Path) -> None:
    if "unpack" in person.options:
        pytest.skip("an unpacked image is not written to")
    copy = Path(person.home) / f"copy-{os.getpid()}.img"
    assert person.call("cp", bench.image, copy).returncode == 0
    script = f"echo new > {place}/etc/new && cat {place}/etc/new"
    done = person.singrun("mount", "-w", copy, place, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"new\n"), done.stderr
    images.wait_for_daemons(str(copy))
    subprocess.run(["e2fsck", "-fn", copy], check=True, capture_output=True)
    stat = subprocess.check_output(["debugfs", "-R", "stat /etc/new", copy], text=True)
    assert "User:     0 " in stat
    copy.unlink()


def test_errors_have_reasons(person: Person, bench: Bench, place: Path) -> None:
    for words, status, reason in (
        ((bench.image, "/no/such"), 255, b"Make it first"),
        ((bench.image, "/etc/passwd"), 255, b"no directory"),
        ((bench.image,), 1, b"No directory was given"),
        ((bench.tree, place), 255, b"directory already"),
        ((bench.image, place, "/no/such/program"), 255, b"Cannot execute"),
    ):
        done = person.singrun("mount", *words)
        assert (done.returncode, reason in done.stderr) == (status, True), done
