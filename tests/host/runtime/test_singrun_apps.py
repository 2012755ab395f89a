"""--app, and what an instance starts: %startscript and %appstart of an image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.builds import Builder
from tests.bench.host import wait_until
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root

RECIPE = """\
Bootstrap: busybox
%environment
    export COMMON=1
%startscript
    echo "started with $* $COMMON in $PWD"
    echo "to err" >&2
    exec sleep 60
%appenv foo
    export FOO="of foo"
%apprun foo
    echo "foo: $FOO $COMMON $*"
%apptest foo
    echo "tested $FOO"
%appstart foo
    echo "app $FOO"
    exec sleep 60
%apprun bar
    echo bar
"""


@pytest.fixture(scope="module")
def image(bench: Bench, builder: Builder) -> Path:
    recipe = bench.directory / "apps.def"
    recipe.write_text(RECIPE)
    builder.run(recipe, bench.directory / "apps.img", cwd=builder.directory, check=True)
    return bench.directory / "apps.img"


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    someone: Person = bench.people[request.param]
    for kind in ("out", "err"):  # an instance of that name appends to them
        logged(someone, kind).unlink(missing_ok=True)
    yield someone
    someone.call(someone.launcher, "stop", "web")
    images.wait_for_daemons(str(bench.directory))


def test_an_app_is_run_tested_and_entered(person: Person, image: Path) -> None:
    assert person.output("run", "--app", "foo", image, "a", "b") == "foo: of foo 1 a b\n"
    assert person.output("run", "--app=bar", image) == "bar\n"
    assert person.output("test", "--app", "foo", image) == "tested of foo\n"
    assert person.output("exec", "--app", "foo", image, "sh", "-c", "echo $FOO") == "of foo\n"
    assert person.output("shell", "--app", "foo", image, "-c", "echo $SCIF_APPNAME") == "foo\n"


@pytest.mark.parametrize("name", ["baz", "../foo", "foo/scif"])
def test_an_app_that_is_none(name: str, person: Person, image: Path) -> None:
    done = person.call(person.launcher, "run", "--app", name, image)
    assert done.returncode == 255
    assert (b"no app baz" if name == "baz" else b"no name of an app") in done.stderr


def logged(person: Person, kind: str) -> Path:
    place = f".singularity/instances/logs/{os.uname().nodename}/{person.name}"
    return Path(person.home) / place / f"web.{kind}"


def test_start_executes_the_startscript(person: Person, image: Path) -> None:
    assert person.output("start", image, "web", "one", "two") == ""
    out, err = logged(person, "out"), logged(person, "err")
    wait_until(lambda: err.exists() and err.read_text() == "to err\n")
    assert out.read_text().startswith("started with one two 1 in /")
    assert "sleep 60" in person.output("exec", "instance://web", "ps")
    person.call(person.launcher, "stop", "web")
    assert b"web" not in person.call(person.launcher, "instances").stdout


def test_start_executes_an_apps_startscript(person: Person, image: Path) -> None:
    assert person.output("start", "--app", "foo", image, "web") == ""
    wait_until(lambda: logged(person, "out").read_text() == "app of foo\n")
