"""What a configuration says: the runscript is executed by a real shell, values are data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from singbuild_docker.config import created, defaults, runscript

from tests.bench.backend_alone import Recorder

SHOW = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
NASTY = ["it's", 'say "x"', "two\nlines", "$HOME `id` $(id)", "", "-n", "*", "\\", "ünï", "a=b;c"]


def shown(script: str, *arguments: str) -> list[str]:
    """What the program of a runscript gets."""
    argv = ["/bin/sh", "-c", script, "runscript", *arguments]
    out = subprocess.run(argv, capture_output=True, check=True).stdout
    words: list[str] = json.loads(out)
    return words


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (NASTY, [], NASTY),
        (NASTY, ["a b", "c"], ["a b", "c"]),
        ([], [], []),
        ([], NASTY, NASTY),
    ],
)
def test_arguments_stand_in_the_place_of_cmd(
    command: Sequence[str], arguments: Sequence[str], expected: Sequence[str]
) -> None:
    assert shown(runscript([*SHOW, "first"], command), *arguments) == ["first", *expected]


def test_without_entrypoint_the_arguments_are_the_command() -> None:
    assert shown(runscript([], [*SHOW, "x y"])) == ["x y"]
    assert shown(runscript([], ["false"]), *SHOW, "other") == ["other"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=4))
def test_every_argument_arrives_as_it_is(words: list[str]) -> None:
    assert shown(runscript(SHOW, words)) == words


def test_of_an_image_that_names_no_program_the_arguments_are_one() -> None:
    only_cmd = {"config": {"Cmd": ["false"], "Entrypoint": None}}
    for config, with_cmd in (({}, True), (only_cmd, False)):
        script = defaults(config, Recorder(), with_cmd=with_cmd).runscript
        assert shown(script, *SHOW, "x  y") == ["x  y"]
        done = subprocess.run(["sh", "-c", script], input="exit 7", text=True, check=False)
        assert done.returncode == 7  # a shell


def test_variables_labels_user_and_workdir_are_kept() -> None:
    report = Recorder()
    config = {
        "Env": ["A=b c", "EMPTY=", "EQUAL=a=b", "NOTHING", "a-b=c"],
        "Labels": {"x": "y"},
        "User": "1000:1000",
        "WorkingDir": "/srv",
    }
    answer = defaults({"config": config}, report, with_cmd=True)
    assert answer.environment == {"A": "b c", "EMPTY": "", "EQUAL": "a=b"}
    recorded = {"singbuild.docker.user": "1000:1000", "singbuild.docker.workdir": "/srv"}
    assert answer.labels == {"x": "y", **recorded}
    assert "1000:1000" in report.lines[0]
    assert "'a-b'" in report.warnings[0]


@pytest.mark.parametrize("config", [None, [], "x", {"Env": "A=b", "Cmd": "sh -c x", "Labels": []}])
def test_what_makes_no_sense_counts_as_nothing(config: object) -> None:
    answer = defaults({"config": config}, Recorder(), with_cmd=True)
    assert (answer.environment, answer.runscript, answer.labels) == ({}, runscript([], []), {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2020-09-13T12:26:40Z", 1_600_000_000),
        ("2020-09-13T14:26:40.123456789+02:00", 1_600_000_000),
        ("0001-01-01T00:00:00Z", None),
        ("yesterday", None),
        (None, None),
        ("2020-09-13T12:26:40", None),
    ],
)
def test_the_day_it_was_made(text: str | None, seconds: int | None) -> None:
    assert created({"created": text}) == seconds


def test_environment_files_keep_values_as_data(tmp_path: Path) -> None:
    from singbuild.tree.metadata import exports

    script = tmp_path / "10-source.sh"
    script.write_text(exports({f"V{n}": word for n, word in enumerate(NASTY)}))
    code = f'. {script}; {SHOW[0]} -c "import json, os; print(json.dumps(dict(os.environ)))"'
    environment = json.loads(subprocess.run(["/bin/sh", "-c", code], capture_output=True).stdout)
    assert [environment[f"V{n}"] for n in range(len(NASTY))] == NASTY
