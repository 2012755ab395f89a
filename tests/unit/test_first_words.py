"""The first words that people type at singbuild: what is nearly right is told how it is right."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from singbuild.cli import strangers
from singbuild.cli.main import commands, main

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Execute a command line in an empty directory; its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))

    def execute(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["singbuild", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code or 0
        assert isinstance(status, int)
        return status, *capsys.readouterr()

    return execute


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("buld a.def x.img", "Did you mean: singbuild build?"),
        ("instpect ok.img", "Did you mean: singbuild inspect?"),
        ("exec ok.img ls", "Did you mean: singrun exec IMAGE?"),
        ("shel ok.img", "Did you mean: singrun shell IMAGE?"),
        ("run", "Did you mean: singrun run IMAGE?"),
        ("version", "Did you mean: singbuild --version?"),
        ("list", "Did you mean: singbuild cache list?"),
        ("logs", "Did you mean: singbuild cache list?"),
        ("qwertyuiop", "See: singbuild --help"),
        ("cache clan", "Did you mean: singbuild cache clean?"),
        ("help buld", "Did you mean: singbuild build?"),
        ("help cache clan", "Did you mean: singbuild cache clean?"),
        ("--size 100M a.def a.img", "--free SIZE"),
        ("--dry-run a.def a.img", "singbuild plan RECIPE"),
        ("-o a.img a.def", "The image is the second word"),
        ("--quite a.def a.img", "Did you mean --quiet?"),
        ("cache prune --sise 5", "Did you mean --size?"),
        ("build a.def", "IMAGE is missing\nUsage: singbuild build [OPTIONS] RECIPE IMAGE"),
        ("build a.def a.img b.img", "too many words: b.img\nUsage: singbuild build"),
        ("bootstrap a.def a.img", "The order is: singbuild bootstrap a.img a.def"),
        ("--free banana a.def a.img", "'banana' is not a size"),
    ],
)
def test_a_wrong_line_is_told_how_it_is_right(line: str, answer: str, say: Say) -> None:
    status, out, err = say(*line.split())
    assert (status, out) == (2, "")
    assert err.startswith("singbuild: error: ")
    assert answer in err


@pytest.mark.parametrize(
    ("words", "stdin", "answer"),
    [
        ([], b"secret\n", "--password-stdin needs a username"),
        (["-u", ""], b"secret\n", "--password-stdin needs a username"),
        (["-u", "ada"], b"\n", "there is no password on standard input"),
        (["-u", "ada"], b"secret\xff\n", "the password on standard input is not UTF-8"),
    ],
)
def test_nothing_else_is_taken_for_a_username_or_a_password(
    words: list[str], stdin: bytes, answer: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    status, out, err = say("login", *words, "--password-stdin", "127.0.0.1:1")
    assert (status, out) == (2, "")
    assert (answer in err, "secret" in err) == (True, False)


@pytest.mark.parametrize("size", ["16T", "999999999999999999T"])
def test_no_image_is_larger_than_its_file_system_can_be(size: str, say: Say) -> None:
    status, _, err = say("create", "--size", size, "a.img")
    assert (status, "ends at 16 TiB" in err, "Traceback" in err) == (8, True, False)
    assert not Path("a.img").exists()


def test_an_option_like_none_is_not_proposed_another(say: Say) -> None:
    _, _, err = say("--foo", "a.def", "a.img")
    assert "Did you mean" not in err


@pytest.mark.parametrize("line", ["-q build", "--force --free 64M build", "--json build"])
def test_options_may_stand_before_the_command(line: str, say: Say) -> None:
    status, out, err = say(*line.split(), "none.def", "a.img")
    assert status == 3
    assert "none.def" in out + err


def test_a_wrong_line_with_json_is_an_event(say: Say) -> None:
    for words in (("--json", "a.def"), ("buld", "--json"), ("inspect", "--json", "--foo")):
        status, out, err = say(*words)
        event = json.loads(out)
        assert (status, err) == (2, "")
        assert (event["event"], event["status"]) == ("error", 2)
        assert event["what"]


@pytest.mark.parametrize("line", ["backends", "completion bash", "--version", "help"])
def test_output_that_cannot_be_written_is_an_error(line: str) -> None:
    words = [sys.executable, "-m", "singbuild", *line.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("singbuild: error: ")
    assert "No space left on device" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_help_has_the_help_of_every_command(say: Say) -> None:
    assert say("help") == say("--help")
    for words in every_command(commands):
        status, out, err = say("help", *words)
        assert (status, err) == (0, "")
        assert out == say(*words, "--help")[1]


def every_command(group: click.Group, *above: str) -> list[tuple[str, ...]]:
    paths = []
    for name, each in group.commands.items():
        paths.append((*above, name))
        if isinstance(each, click.Group):
            paths += every_command(each, *above, name)
    return paths


def test_nothing_said_is_an_error_with_the_help(say: Say) -> None:
    for words in ((), ("cache",)):
        status, out, err = say(*words)
        assert (status, out) == (2, "")
        assert "Commands:" in err


@pytest.mark.parametrize(
    "words",
    ["token=s3cr3t-v4lue", "s3cr3t-v4lue", "id=t,env=s3cr3t-v4lue", "id=t,src=s3cr3t-v4lue"],
)
def test_what_may_be_a_secret_is_not_repeated(words: str, say: Say) -> None:
    status, out, err = say("--secret", words, "a.def", "a.img")
    assert status == 2
    assert "s3cr3t" not in out + err


def test_a_plan_asks_nothing_of_the_network(say: Say, tmp_path: Path) -> None:
    recipe = tmp_path / "a.def"
    recipe.write_text("Bootstrap: docker\nFrom: 127.0.0.1:9/lab/tool\n")
    status, out, err = say("plan", str(recipe))
    assert (status, err) == (0, "")
    assert "scratch    an empty tree, where nobody else sees it" in out  # a directory for most


def test_offline_says_whose_downloads_it_forbids(say: Say) -> None:
    text = " ".join(say("build", "--help")[1].split())
    assert "Let the backend fetch nothing" in text
    assert "What %post fetches is its own." in text


def test_export_overwrites_nothing_unasked(say: Say, tmp_path: Path) -> None:
    assert say("create", "--size", "8", "a.img")[0] == 0
    archive = tmp_path / "kept.tar"
    archive.write_text("kept")
    for words in (("kept.tar",), ("-o", "kept.tar"), ("-f", "kept.tar")):
        status, _, err = say("export", "a.img", *words)
        assert (status, archive.read_text()) == (8, "kept")
        assert "--force" in err
    assert say("export", "--force", "a.img", "kept.tar")[0] == 0
    assert archive.read_bytes()[257:262] == b"ustar"


@pytest.mark.parametrize(
    ("word", "size"), [("8", 8 << 20), ("8M", 8 << 20), ("8MiB", 8 << 20), ("8192 KB", 8 << 20)]
)
def test_sizes_are_written_alike(word: str, size: int, say: Say, tmp_path: Path) -> None:
    assert say("create", "--size", word, "a.img")[0] == 0
    assert (tmp_path / "a.img").stat().st_size == size


@pytest.mark.parametrize("line", ["create --size 8 b.img", "expand --size 9 a.img"])
def test_a_time_that_is_no_number_is_the_users(
    line: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert say("create", "--size", "8", "a.img")[0] == 0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "noon")
    status, _, error = say(*line.split())
    assert (status, "SOURCE_DATE_EPOCH is 'noon'" in error) == (2, True), error


def test_no_command_of_ours_is_explained_as_one_of_strangers() -> None:
    assert strangers.COMMANDS.keys().isdisjoint(commands.commands)
