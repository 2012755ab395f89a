"""Builds into other formats: by root and by an ordinary user, killed, and into a directory."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import installation
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory
from tests.bench.singrun_images import Person

pytestmark = pytest.mark.root
RECIPE = """Bootstrap: busybox
%post
    mkdir /data
    echo made > /data/file
    chown 7:8 /data/file
    ln /data/file /data/again
%runscript
    echo hello $1
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with shared_directory() as directory:
        directory.chmod(0o777)
        (directory / "r.def").write_text(RECIPE)
        yield directory


@pytest.fixture(scope="module")
def people(place: Path) -> Iterator[list[Person]]:
    with images.ordinary_user() as name:
        result = [Person("root", Path("singrun")), Person(name, Path("singrun"))]
        for person in result:
            own = place / person.name
            own.mkdir()
            os.chown(own, person.uid, person.gid)
            person.variables |= {
                "PATH": f"{installation.programs()}:{os.environ['PATH']}",
                "SINGBUILD_CACHEDIR": str(own / "cache"),
                "SINGBUILD_TMPDIR": str(own),
                "XDG_STATE_HOME": str(own / "state"),
            }
        yield result


def called(person: Person, *words: str, umask: int = 0o022) -> str:
    done = person.call(*words, umask=umask)
    assert done.returncode == 0, done
    return done.stdout.decode()


@pytest.mark.parametrize("form", ["squashfs", "sif", "sif-ext3"])
def test_whoever_builds_it_gets_the_same_bytes(
    place: Path, people: list[Person], form: str
) -> None:
    built_alike(place, people, form, "r.def")
    for person in people:
        target = place / person.name / f"r.def.{form}"
        assert called(person, "singrun", "run", str(target), "you") == "hello you\n"
        lock = called(person, "singbuild", "inspect", "--lock", str(target))
        assert ("writer: tar2sqfs" in lock) == (form != "sif-ext3")


def built_alike(place: Path, people: list[Person], form: str, recipe: str) -> None:
    """Build a recipe as several people, with several umasks; all get the same sound file."""
    digests = set()
    for person, umask in zip(people, (0o022, 0o077), strict=True):
        target = place / person.name / f"{recipe}.{form}"
        words = ("singbuild", "-q", "--format", form, f"{place}/{recipe}", str(target))
        called(person, *words, umask=umask)
        digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
        assert "sound" in called(person, "singbuild", "verify", str(target))
    assert len(digests) == 1


def test_a_sandbox_belongs_to_who_built_it_and_is_updated(
    place: Path, people: list[Person]
) -> None:
    update = place / "update.def"
    update.write_text("Bootstrap: busybox\n%post\n    cat /data/file > /data/new\n")
    for person in people:
        box = place / person.name / "box"
        called(person, "singbuild", "-q", f"{place}/r.def", f"{box}/")  # the slash says sandbox
        owner = (7, 8) if person.uid == 0 else (person.uid, person.gid)
        status = (box / "data/file").stat()
        assert (status.st_uid, status.st_gid, status.st_nlink) == (*owner, 2)
        assert called(person, "singrun", "run", str(box), "you") == "hello you\n"
        (box / "data/file").write_text("changed\n")
        called(person, "singbuild", "-q", "--update", str(update), str(box))
        assert (box / "data/new").read_text() == "changed\n"
        leftovers = [path.name for path in box.parent.iterdir() if ".part" in path.name]
        assert leftovers == []


def test_a_killed_conversion_leaves_nothing_half(place: Path, people: list[Person]) -> None:
    conversions_killed(place, people[1], 2)


def conversions_killed(place: Path, person: Person, kills: int) -> None:
    """By SIGKILL at any moment: the target is the old one or the new one; the next run sweeps."""
    own = place / person.name
    tree = own / "tree"
    (tree / ".singularity.d").mkdir(parents=True)
    for number in range(150):
        (tree / f"{number}").write_bytes(random.Random(number).randbytes(20_000))
    subprocess.run(["chown", "-R", str(person.uid), tree], check=True)
    chance = random.Random(3)
    for form in ("squashfs", "sif", "sif-ext3", "directory"):
        target = own / f"killed.{form}"
        words = ("singbuild", "convert", "-q", "--force", "--format", form, str(tree), str(target))
        begin = time.monotonic()
        called(person, *words)
        took = time.monotonic() - begin
        whole = content(target)
        for _ in range(kills):
            argv = person.words(*words)
            process = subprocess.Popen(
                argv, env=person.environment(), cwd=own, start_new_session=True
            )
            time.sleep(took * chance.random())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert content(target) == whole
        called(person, *words)
        assert content(target) == whole
        assert [path.name for path in own.iterdir() if ".part" in path.name] == [], form


def content(path: Path) -> str:
    total = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        total.update(each.name.encode() + (b"" if each.is_dir() else each.read_bytes()))
    return total.hexdigest()
