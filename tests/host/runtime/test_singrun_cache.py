"""``singrun cache``: all that launches keep is counted, shown and removed; what is in use stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from singrun.images import unpacked
from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture
def person(bench: Bench) -> Iterator[Person]:
    """An ordinary user with caches of its own."""
    user = bench.people["user"]
    place = bench.directory / "caches"
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    own = {"SINGRUN_CACHEDIR": f"{place}/trees", "SINGBUILD_CACHEDIR": f"{place}/builder"}
    user.variables |= own
    for kind in ("singularity", "apptainer"):  # of this worker's earlier tests
        shutil.rmtree(f"{user.home}/.{kind}/instances/logs", ignore_errors=True)
    yield user
    for name in own:
        del user.variables[name]
    images.wait_for_daemons(user.name)
    shutil.rmtree(place)


def answer(person: Person, *words: str) -> dict[str, Any]:
    output: dict[str, Any] = json.loads(person.output("cache", *words, "--json"))
    assert (output["version"], output["command"]) == (1, f"cache {words[0]}")
    return output


def warm(person: Person, bench: Bench, name: str) -> Path:
    image = shutil.copy(bench.image, bench.directory / name)
    return Path(person.output("warm", image).strip())


def pulled(person: Person) -> Path:
    """What a pull leaves."""
    place = Path(person.variables["SINGBUILD_CACHEDIR"], "pulled/docker:some%2Fimage")
    person.call("mkdir", "-p", place)
    person.call("chmod", "700", place.parents[1])
    person.call("dd", "if=/dev/zero", f"of={place}/image", "bs=64k", "count=1")
    return place


def test_what_is_kept_is_listed_counted_and_removed(person: Person, bench: Bench) -> None:
    assert person.output("cache", "list").splitlines() == [
        "KIND   LAST USED              SIZE  NAME"
    ]
    assert "0 unpacked images" in person.output("cache", "du")
    place = Path(person.variables["SINGBUILD_CACHEDIR"], "pulled/docker:killed")
    person.call("mkdir", "-p", place)  # nothing came of it
    tree, image = warm(person, bench, "one.img"), pulled(person)
    items = answer(person, "list")["items"]
    assert [(each["kind"], each["path"]) for each in items] == [
        ("tree", str(tree)),
        ("image", str(image)),
    ]
    assert "docker:some/image" in person.output("cache", "list")
    assert str(bench.directory / "one.img") in person.output("cache", "list")
    total = answer(person, "du")
    assert total["kinds"] == {"tree": items[0]["size"], "image": 65536, "log": 0}
    assert (total["cache"], total["limit"]) == (str(tree.parent), 20 << 30)
    assert len(answer(person, "clean", "--dry-run")["would_remove"]) == 2
    assert tree.is_dir()
    assert image.is_dir()
    assert person.output("cache", "clean", "image") == "removed 1 item, 64.0 KiB\n"
    assert tree.is_dir()
    assert not image.exists()
    assert len(answer(person, "clean")["removed"]) == 1
    assert [*tree.parent.iterdir()] == []


def test_pruning_keeps_what_was_used_last(person: Person, bench: Bench) -> None:
    first, second = (warm(person, bench, name) for name in ("one.img", "two.img"))
    os.utime(first, (time.time() - 40 * 86400,) * 2)
    assert person.output("cache", "prune").startswith("removed 0 items")
    size = answer(person, "list")["items"][1]["size"]
    assert len(answer(person, "prune", f"--size={size + 1}", "--dry-run")["would_remove"]) == 1
    assert person.output("cache", "prune", "--older", "30").startswith("removed 1 item,")
    assert not first.exists()
    assert second.exists()
    person.output("cache", "prune", "--size", "0")
    assert not second.exists()


def test_an_image_was_used_when_it_was_started_last(person: Person) -> None:
    """Its files' times of access may be old: file systems are mounted noatime."""
    image, now = pulled(person), time.time()
    os.utime(image / "image", (now - 40 * 86400,) * 2)
    os.utime(image, (now - 86400,) * 2)
    assert abs(answer(person, "list")["items"][0]["used"] - now + 86400) < 1
    assert person.output("cache", "prune", "--older", "30").startswith("removed 0 items")
    assert person.output("cache", "prune", "--older", "0.5").startswith("removed 1 item,")


def test_what_a_program_uses_stays(person: Person, bench: Bench) -> None:
    image = shutil.copy(bench.image, bench.directory / "used.img")
    tree = Path(person.output("warm", image).strip())
    running = person.words(
        person.launcher, "exec", "--mount-with", "unpack", image, "sh", "-c", "echo; read x"
    )
    program = subprocess.Popen(
        running,
        env=person.environment(),
        cwd=person.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdout
    program.stdout.readline()
    assert "1 in use stays" in person.output("cache", "clean")
    assert tree.is_dir() or [*tree.parent.iterdir()]
    program.communicate(b"\n")
    assert person.output("cache", "clean").startswith("removed 1 item,")
    assert [*tree.parent.iterdir()] == []


def test_output_of_instances_goes_once_they_are_stopped(person: Person, bench: Bench) -> None:
    person.output("start", bench.image, "noted")
    assert [each["kind"] for each in answer(person, "list")["items"]] == []
    person.output("stop", "noted")
    assert [each["name"] for each in answer(person, "list")["items"]] == ["noted"]
    assert answer(person, "clean")["removed"] == []
    assert len(answer(person, "clean", "--all")["removed"]) == 1
    assert answer(person, "list")["items"] == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("cache", "There is no verb cache\n"),
        ("cache clan", "Did you mean cache clean?"),
        ("cache list --jsn", "Did you mean --json?"),
        ("cache prune --size", "Option --size needs a value"),
        ("cache prune --size=banana", "--size: cannot understand the cache size 'banana'"),
        ("cache prune --older soon", "--older soon is not a number of days"),
        ("cache prune --older -1", "--older -1 is not a number of days"),
        ("cache prune --older nan", "--older nan is not a number of days"),
        ("cache clean trees", "cache clean takes no trees"),
        ("cache list tree", "cache list takes no tree"),
    ],
)
def test_what_is_wrong_is_said(line: str, text: str, person: Person) -> None:
    done = person.singrun(*line.split())
    assert (done.returncode, done.stdout) == (255 if "banana" in line else 1, b"")
    assert text in done.stderr.decode().replace("singrun: ", "").replace("  ", "")


def test_a_strangers_cache_is_not_touched(person: Person, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    person.variables["SINGRUN_CACHEDIR"] = str(tmp_path)
    done = person.singrun("cache", "clean")
    assert done.returncode == 255
    assert b"not your directory" in done.stderr


@pytest.mark.parametrize("content", ["", "{host} another boot\n"], ids=["empty", "another boot"])
def test_a_tree_that_a_crash_of_the_host_emptied_is_unpacked_again(
    person: Person, bench: Bench, content: str
) -> None:
    tree = warm(person, bench, "crash.img")
    assert (tree / "boot").read_text() == unpacked.this_boot()
    (tree / "tree/bin/sh").write_bytes(b"")
    (tree / "boot").write_text(content.format(host=os.uname().nodename))
    image = bench.directory / "crash.img"
    assert person.output("exec", "--mount-with", "unpack", image, "sh", "-c", "echo up") == "up\n"
    assert (tree / "boot").read_text() == unpacked.this_boot()


def test_a_tree_that_another_host_unpacked_is_used(person: Person, bench: Bench) -> None:
    tree = warm(person, bench, "shared.img")
    (tree / "boot").write_text("another-host another boot\n")
    assert person.output("warm", bench.directory / "shared.img").strip() == str(tree)
    assert (tree / "boot").read_text() == "another-host another boot\n"


def test_a_tree_that_the_kernel_has_written_outlives_the_boot(person: Person, bench: Bench) -> None:
    tree = warm(person, bench, "old.img")
    os.utime(tree / "boot", (time.time() - 7200,) * 2)
    before = tree.stat().st_ino
    person.output("exec", "--mount-with", "unpack", bench.directory / "old.img", "true")
    assert not (tree / "boot").exists()
    assert tree.stat().st_ino == before
