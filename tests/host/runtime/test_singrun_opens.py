"""A start asks little of file systems, and of a shared one hardly anything."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import file_operations
from tests.bench import singrun_images as images
from tests.bench.host import wait_until
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root

MOST_OPENS = 70  # that the runtime adds to the bare interpreter's
ACTION = '"/.singularity.d/actions/exec"'


@pytest.fixture(params=["root, loop", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


def test_a_start_opens_few_files(person: Person, bench: Bench) -> None:
    words: list[images.Word] = [bench.launcher, "exec", *person.options, bench.image, "true"]
    for _ in range(2):  # the first writes caches
        assert person.call(*words).returncode == 0
    bare = file_operations.interpreter(person, images.PYTHON)
    launch = file_operations.counted(person, words, ACTION)
    assert launch["opens"] - bare["opens"] <= MOST_OPENS, (launch, bare)


def test_a_start_opens_the_image_and_nothing_else_where_it_lies(bench: Bench) -> None:
    """What a thousand nodes ask of a parallel file system: one file, and no search beside it."""
    user = bench.people["user, unpack"]
    image = bench.directory / "alone/image.img"
    image.parent.mkdir()
    image.write_bytes(bench.image.read_bytes())
    words: list[images.Word] = [bench.launcher, "exec", *user.options, image, "true"]
    assert user.call(*words).returncode == 0
    trace = Path(f"/var/tmp/singrun-trace-{user.uid}")
    trace.touch()
    trace.chmod(0o666)
    strace = ("strace", "-f", "-qq", "-s", "200", "-e", "trace=%file", "-o", trace)
    assert user.call(*strace, *words).returncode == 0
    lines = [line for line in trace.read_text().splitlines() if f'"{image.parent}' in line]
    trace.unlink()
    calls = [line.split()[1].partition("(")[0] for line in lines if "execve" not in line]
    assert calls == ["newfstatat", "openat"], lines  # is it an instance's name? then the image
    assert all(f'"{image}"' in line for line in lines), lines


def test_an_image_that_is_replaced_stays_the_old_one_to_the_end(
    person: Person, bench: Bench
) -> None:
    for how in (person.options, ["--mount-with", "fuse2fs"]):
        image = bench.directory / "replaced.img"
        for word in ("new", "old"):
            tree = bench.directory / f"replaced-{word}"
            if not tree.exists():
                bench.variant(tree.name)
                (tree / "word").write_text(f"{word}\n")
            images.ext3(tree, bench.directory / f"{word}.img")
        (bench.directory / "old.img").rename(image)
        go, started = (Path(person.home, f"{name}-{os.getpid()}") for name in ("go", "started"))
        script = f"touch {started}; until test -e {go}; do sleep 0.05; done; cat /word"
        words = person.words(bench.launcher, "exec", *how, image, "sh", "-c", script)
        running = subprocess.Popen(
            words, env=person.environment(), cwd=person.home, stdout=subprocess.PIPE
        )
        wait_until(started.exists, 60)
        (bench.directory / "new.img").rename(image)
        again: list[images.Word] = [bench.launcher, "exec", *how, image]
        assert person.call(*again, "cat", "/word").stdout == b"new\n"
        go.touch()
        assert running.communicate()[0] == b"old\n"
        started.unlink()
        go.unlink()
