"""docs/ci.md tells of every event that a build prints, of all its fields, and of no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from singbuild import errors
from singbuild.cli import main
from singbuild.console import events
from tests.bench.builds import Build
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

DOCUMENT = (ROOT / "docs/ci.md").read_text()
# Not /dev/urandom: there is none where no device can be made, as in a container.
DIFFERING = "Bootstrap: busybox\n%post\n    date +%s.%N > /{name}\n"
RECIPE = "Bootstrap: busybox\n%post\n    echo said\n    {last}\n%test\n    true\n"


def documented() -> dict[str, set[str]]:
    """The fields of each event in the document's table."""
    rows = re.findall(r"^\| `(\w+)` \| (`.*?`) \|", DOCUMENT, re.M)
    return {name: {*re.findall(r"`(\w+)`", fields)} for name, fields in rows}


def printed(stdout: str) -> Iterator[Mapping[str, Any]]:
    yield from (json.loads(line) for line in stdout.splitlines())


def test_every_event_is_documented_with_its_fields_and_every_documented_one_comes(
    recipe: Callable[[str], Path],
    singbuild: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SINGBUILD_HEARTBEAT", "0.1")
    good, bad = recipe(RECIPE.format(last="sleep 1")), tmp_path / "bad.def"
    bad.write_text(RECIPE.format(last="false"))
    built = [singbuild("build", "--json", good, name) for name in ("a.img", "b.img")]
    failed = singbuild("build", "--json", bad, "c.img")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/stages").touch()  # not a directory: a warning
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "other"))
    built.append(singbuild("build", "--json", good, "d.img"))
    random = tmp_path / "random.def"
    random.write_text(DIFFERING.format(name="random"))
    differing = singbuild("build", "--json", "--check-reproducible", random, "e.img")
    assert differing.returncode == 1
    failed_two = (failed, differing)
    assert [done.returncode for done in (*built, failed)] == [0, 0, 0, 7]
    fields_of: dict[str, set[str]] = {}
    for done in (*built, *failed_two):
        assert done.stderr == ""
        for event in printed(done.stdout):
            fields = {*event} - {"event", "seconds"}
            assert fields == fields_of.setdefault(event["event"], fields)
    assert fields_of == documented()


def test_a_stream_begins_with_its_version_and_ends_with_how_it_ended(
    recipe: Callable[[str], Path], singbuild: Build
) -> None:
    path = recipe(RECIPE.format(last="false"))
    report = [*printed(singbuild("build", "--json", path, "a.img").stdout)]
    assert (report[0]["event"], report[0]["version"]) == ("start", events.VERSION)
    assert f"This is version {events.VERSION}." in DOCUMENT
    assert {e["name"] for e in report if e["event"] == "phase"} < {*report[0]["steps"]}
    assert (report[-1]["event"], report[-1]["status"]) == ("error", 7)
    refused = [*printed(singbuild("build", "--json", "none.def", "a.img").stdout)]
    assert [(e["event"], e["status"]) for e in refused] == [("error", 3)]


def test_a_check_says_that_one_image_is_done_and_what_was_otherwise(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(DIFFERING.format(name="{{ name }}"))
    words = ("--json", "--check-reproducible", "--build-arg")
    report = [*printed(singbuild(*words, "name=random", path, "a.img").stdout)]
    (difference,) = [event for event in report if event["event"] == "difference"]
    assert (difference["kind"], difference["path"]) == ("changed", "/random")
    assert [event["same"] for event in report if event["event"] == "reproducible"] == [False]
    assert not [event for event in report if event["event"] == "done"]
    assert (report[-1]["event"], report[-1]["status"]) == ("error", 1)
    report = [*printed(singbuild(*words, "name=tmp/random", path, "a.img").stdout)]
    (same,) = [event for event in report if event["event"] == "reproducible"]
    assert (same["same"], same["differing"]) == (True, 0)
    assert {"clock", "processors", "host name", "umask", "zone"} < {*same["surroundings"]}
    target = str(tmp_path / "a.img")
    assert {event["image"] for event in report if event["event"] == "start"} == {target}
    (done,) = [event for event in report if event["event"] == "done"]
    assert (done["image"], report[-1]) == (target, done)
    assert done["digest"] in singbuild("inspect", "a.img").stdout


def test_an_error_names_its_place(recipe: Callable[[str], Path], singbuild: Build) -> None:
    path = recipe("Bootstrap: busybox\n%pots\n    true\n")
    (wrong,) = printed(singbuild("--json", path, "a.img").stdout)
    assert (wrong["path"], wrong["line"], wrong["column"]) == (str(path), 2, 1)
    path = recipe(RECIPE.format(last="false"))
    *_, failed = printed(singbuild("--json", path, "a.img").stdout)
    assert (failed["section"], failed["line"]) == ("post", 0)


def test_progress_never_passes_its_end(recipe: Callable[[str], Path], singbuild: Build) -> None:
    report = [
        *printed(
            singbuild("--json", "--no-cache", recipe(RECIPE.format(last="true")), "a.img").stdout
        )
    ]
    steps = [event for event in report if event["event"] == "progress"]
    assert steps
    assert [event for event in steps if event["total"] and event["done"] > event["total"]] == []


def test_help_and_the_document_give_every_status_one_meaning() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|$", DOCUMENT, re.M)
    helped = re.findall(r"^  (\d+) +(.*)$", main.STATUSES, re.M)
    assert [(number, text.replace("`", "")) for number, text in rows] == helped
    kinds = [kind.status for kind in errors.SingbuildError.__subclasses__()]
    reserved = {0, errors.SingbuildError.status, errors.EXIT_BUG, errors.EXIT_INTERRUPTED}
    assert {int(number) for number, _ in rows} == {*kinds, *reserved}
    assert f"{errors.EXIT_TERMINATED} SIGTERM" in helped[-1][1]


def test_a_pipe_gets_no_control_characters(
    recipe: Callable[[str], Path], singbuild: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGBUILD_HEARTBEAT", "0.1")
    coloured = r"printf '\033[1mbold\033[0m\a\n'"
    text = f"Bootstrap: busybox\n%post\n    {coloured}\n    sleep 1\n    false\n"
    done = singbuild("--no-cache", recipe(text), "a.img")
    assert "    bold" in done.stdout
    assert "post: still at work" in done.stdout
    assert [c for c in done.stdout + done.stderr if not c.isprintable() and c not in "\n\t"] == []
