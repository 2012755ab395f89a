"""What the first launches of a newcomer meet: data elsewhere, libraries at home, full images."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.builds import Build
from tests.bench.host import shared_directory
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root

RECIPE = """\
Bootstrap: busybox

%help
    Count words.

%runscript
    echo "$@"
"""


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(bench.directory)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image as singbuild makes it, without room."""
    with shared_directory() as directory:
        (directory / "a.def").write_text(RECIPE)
        words = [sys.executable, "-m", "singbuild", "-q", "a.def", "a.img"]
        subprocess.run(words, cwd=directory, check=True)
        yield directory / "a.img"


@pytest.fixture
def data() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="tests-", dir="/srv"))  # which nobody shares by itself
    directory.chmod(0o755)
    file = directory / "data.csv"
    file.write_text("1,2\n")
    yield file
    shutil.rmtree(directory)


def test_data_that_is_not_shared_is_told_how_it_is(person: Person, image: Path, data: Path) -> None:
    hint = f"Add --bind {data.parent}, or set SINGRUN_BIND={data.parent}"
    for words in (("exec", image, "cat", data), ("run", image, data)):
        assert hint in person.singrun(*map(str, words), cwd="/").stderr.decode()
    shared = person.singrun("exec", "--bind", str(data.parent), image, "cat", data, cwd="/")
    assert (shared.stdout, shared.stderr) == (b"1,2\n", b"")
    for word in ("/etc/none", "/usr/bin/python3", "/no/such", "relative"):
        assert person.singrun("run", image, word, cwd="/").stderr == b""


def test_a_program_that_is_not_there_is_named(person: Person, image: Path) -> None:
    for word in ("pyton3", "/opt/pyton3", "odd\\name"):
        done = person.singrun("exec", image, word)
        assert done.returncode == 127
        assert done.stderr.decode() == f"There is no command {word} in the image\n"
    assert person.singrun("exec", image, "/etc/passwd").returncode == 126
    assert person.output("exec", image, "/bin/echo", "there") == "there\n"


def test_libraries_of_the_home_are_not_the_images(person: Person, image: Path) -> None:
    script = "echo $PYTHONNOUSERSITE $R_LIBS_USER ${PYTHONHOME-none}"
    environment = person.environment() | {"PYTHONHOME": "/usr"}
    assert (
        person.output("exec", image, "sh", "-c", script, env=environment) == "1 /nonexistent none\n"
    )
    environment |= {"PYTHONNOUSERSITE": "", "R_LIBS_USER": "mine"}
    assert person.output("exec", image, "sh", "-c", script, env=environment) == "mine none\n"
    undone = ("--env", "PYTHONNOUSERSITE=", image, "sh", "-c", "echo [$PYTHONNOUSERSITE]")
    assert person.output("exec", *undone) == "[]\n"


def test_no_variable_of_the_caller_is_lost(person: Person, image: Path) -> None:
    names = ("script", "app", "shell", "file", "path")
    environment = person.environment() | dict.fromkeys(names, "mine")
    words = ("sh", "-c", "echo " + " ".join(f"${name}" for name in names))
    assert person.output("exec", image, *words, env=environment) == "mine mine mine mine mine\n"
    done = person.singrun("shell", image, "-c", words[-1], env=environment)
    assert done.stdout == b"mine mine mine mine mine\n"


def test_an_images_first_lines_say_what_executes_it(image: Path) -> None:
    first, _, third = image.read_bytes()[:154].decode().splitlines()
    assert (first, third) == (
        "#!/usr/bin/env singrun",
        "# needs singrun, of the Python package singbuild",
    )


def test_an_image_prints_its_own_help(person: Person, image: Path, bench: Bench) -> None:
    assert person.output("help", image).strip() == "Count words."
    done = person.singrun("help", bench.image)
    assert done.returncode == 1
    assert b"no section %help" in done.stderr


def test_a_full_image_is_not_touched(bench: Bench, image: Path, singbuild: Build) -> None:
    root = bench.people["root, loop"]
    done = root.singrun("exec", "-w", image, "touch", "/new")
    assert done.returncode == 255
    assert f"singbuild expand --size 64M {image}".encode() in done.stderr
    assert singbuild("verify", image).returncode == 0


def test_a_name_that_is_nearly_an_images(person: Person, image: Path) -> None:
    assert b"Did you mean ./a.img?" in person.singrun("exec", "./a", "ls", cwd=image.parent).stderr
    near = person.singrun("exec", f"{image.parent}/b.img", "ls").stderr
    assert f"Did you mean {image}?".encode() in near
