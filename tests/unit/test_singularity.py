"""The commands singularity and apptainer: help, versions, wrong words, words that pass through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.singularity.site import ABSENT
from singrun import options
from singrun.verbs import manual
from tests.bench import docker_registry
from tests.bench.singrun_images import ROOT

CHANGING = ("create", "bootstrap", "copy", "import", "export", "pull", "expand", "shrink", "build")
DISPATCHER = ROOT / "bin/singularity"
S = "--spelling=singularity"


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """The dispatcher beside a singrun and a singbuild that print their words, one a line."""
    (tmp_path / "singularity").write_text(DISPATCHER.read_text())
    for name in ("singrun", "singbuild"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
    for each in tmp_path.iterdir():
        each.chmod(0o755)
    return tmp_path / "singularity"


def lines_of(*words: str | Path) -> list[str]:
    return subprocess.check_output(words, text=True).splitlines()


def singularity(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The dispatcher with the real commands."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [DISPATCHER, *words],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path} | variables,
    )


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (
            ["exec", "a b.img", "echo", "'x  y'", ""],
            ["singrun", S, "exec", "a b.img", "echo", "'x  y'", ""],
        ),
        (["-d", "shell", "i"], ["singrun", S, "shell", "--debug", "i"]),
        (["-v", "--debug", "run", "i", "-d"], ["singrun", S, "run", "--debug", "i", "-d"]),
        (["--nocolor", "-s", "exec", "i", "c"], ["singrun", f"{S}:silent", "exec", "i", "c"]),
        (["-q", "create", "-s", "3", "i"], ["singbuild", f"{S}:quiet", "create", "-s", "3", "i"]),
        (
            ["--silent", "bootstrap", "i", "d"],
            ["singbuild", f"{S}:silent", "bootstrap", "i", "d"],
        ),
        (["copy", "i", "-a", "s", "d"], ["singbuild", S, "copy", "i", "-a", "s", "d"]),
        (["help", "exec"], ["singrun", S, "exec", "--help"]),
        (["exec", "help"], ["singrun", S, "exec", "--help"]),
        (["help", "create"], ["singbuild", S, "create", "--help"]),
        (["help", "cache", "list"], ["singbuild", S, "cache", "list", "--help"]),
        (["expand", "help"], ["singbuild", S, "expand", "--help"]),
        (["mount", "-h"], ["singrun", S, "mount", "-h"]),
        (["instance", "list", "--json"], ["singrun", S, "instance", "list", "--json"]),
        (["image.expand", "i"], ["singbuild", S, "expand", "i"]),
        (["siftool", "list", "i"], ["singbuild", S, "sif", "list", "i"]),
        (["instance.stop", "n"], ["singrun", S, "instance", "stop", "n"]),
        (["--config", "f", "exec", "i", "c"], ["singrun", S, "exec", "i", "c"]),
        (["-c", "f", "exec", "i", "c"], ["singrun", S, "exec", "i", "c"]),
        (["xyzzy", "i"], ["singbuild", S, "xyzzy", "i"]),
    ],
)
def test_words_pass_untouched(beside: Path, words: list[str], passed: list[str]) -> None:
    assert lines_of(beside, *words) == passed


def test_the_dispatcher_is_found_through_links(beside: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(beside)
    assert lines_of(link, "test", "i") == ["singrun", S, "test", "i"]


def test_a_runtime_that_is_no_shell_script_or_a_link_is_executed(
    beside: Path, tmp_path: Path
) -> None:
    singrun = tmp_path / "singrun"
    singrun.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
    assert lines_of(beside, "test", "i") == [S, "test", "i"]
    (tmp_path / "elsewhere").mkdir()
    singrun.write_text('#!/bin/sh\necho "$0"\n')
    singrun.rename(tmp_path / "elsewhere/singrun")
    singrun.symlink_to("elsewhere/singrun")
    assert lines_of(beside, "test", "i") == [str(singrun)]


def test_a_launch_takes_no_second_shell(beside: Path, tmp_path: Path) -> None:
    (tmp_path / "singrun").write_text('#!/bin/sh\necho "$0"\n')
    assert lines_of(beside, "test", "i") == [str(beside)]


def test_a_link_named_apptainer_is_apptainer(beside: Path, tmp_path: Path) -> None:
    link = tmp_path / "apptainer"
    link.symlink_to(beside)
    assert lines_of(link, "test", "i") == ["singrun", "--spelling=apptainer", "test", "i"]


@pytest.mark.parametrize("name", ["singularity", "apptainer"])
def test_the_version_is_three_words_that_clients_understand(name: str) -> None:
    lines_of = subprocess.check_output([ROOT / "bin" / name, "--version"], text=True)
    assert re.fullmatch(rf"{name} version \d+\.\d+\.\d+\n", lines_of)
    number = subprocess.check_output([ROOT / "bin" / name, "version"], text=True)
    assert lines_of.split()[-1] == number.strip()


@pytest.mark.parametrize("verb", ABSENT)
def test_a_verb_that_is_not_had_is_refused_in_one_sentence(verb: str) -> None:
    done = singularity(verb, "--option", "word")
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr == f"FATAL:   there is no verb {verb} here\n{ABSENT[verb]}\n"


@pytest.mark.parametrize("place", ["SINGBUILD_LIBRARY", "APPTAINER_LIBRARY", "file"])
def test_the_option_for_a_library_comes_before_variables_and_files(
    place: str, tmp_path: Path
) -> None:
    other, file = "http://127.0.0.1:1", tmp_path / "singbuild/singbuild.conf"
    variables = {place: other, "XDG_CONFIG_HOME": str(tmp_path)}
    variables["SINGBUILD_CACHEDIR"] = str(tmp_path / "cache")
    if place == "file":
        file.parent.mkdir()
        file.write_text(f"library = {other}\n")
    with docker_registry.faulty() as server:
        server.behaviours["/v1/images/"] = [docker_registry.sends(b"{}")]
        url, target = f"http://{server.name}", str(tmp_path / "a.sif")
        words = ("pull", "--library", url, target, "library://lab/tool")
        done = singularity(*words, **variables)
    assert (done.returncode, f"the library at {url} tells no" in done.stderr) == (255, True), done


def test_a_password_on_standard_input_is_no_username() -> None:
    words = ("registry", "login", "--password-stdin", "docker://127.0.0.1:1")
    done = singularity(*words, stdin="secret\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert ("needs a username" in done.stderr, "secret" in done.stderr) == (True, False)


def test_a_variable_that_cannot_be_meant_is_refused() -> None:
    done = singularity("cache", "list", SINGBUILD_OFFLINE="perhaps")
    assert (done.returncode, done.stdout) == (1, "")
    assert "SINGBUILD_OFFLINE: 'perhaps' is neither yes nor no" in done.stderr


@pytest.mark.parametrize("days", ["-1", "9" * 400])
def test_days_that_nobody_counts_are_refused(days: str) -> None:
    done = singularity("cache", "clean", "--dry-run", f"--days={days}")
    assert (done.returncode, "is not in the range" in done.stderr) == (1, True), done


def test_silent_leaves_out_warnings_and_quiet_does_not(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("no such directive = 1\n")
    words = ("-c", str(tmp_path / "conf"), "exec", "/no/such", "true")
    for manner, warned in (([], True), (["-q"], True), (["-s"], False)):
        done = singularity(*manner, *words)
        assert done.returncode == 255
        assert ("WARNING: " in done.stderr) == warned
        assert "FATAL:   Cannot open the image /no/such\n" in done.stderr


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str]) -> None:
    done = singularity(*words)
    assert done.returncode == 0
    for verb in ("exec", "shell", "run", "test", "create", "bootstrap", "import", "mount"):
        assert verb in done.stdout


# Words that 3.x has for something else than singrun.
OTHERS = ("help", "cache", "config")


@pytest.mark.parametrize(
    "verb", [v for v in (*manual.VERBS, *CHANGING, "inspect") if v not in OTHERS]
)
def test_each_command_has_usage_and_examples(verb: str, beside: Path) -> None:
    ways = ((verb, "--help"), ("help", verb), (verb, "help"))
    assert len({(*lines_of(beside, *words),) for words in ways}) == 1  # what is executed for them
    done = singularity(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f" {verb} " in done.stdout.splitlines()[0]
    assert "Example" in done.stdout


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["creat", "x.img"], "create"),
        (["exce", "x.img"], "exec"),
        (["exec", "--bnd", "/", "x.img", "true"], "--bind"),
        (["create", "--sise", "3", "x.img"], "--size"),
        (["expand", "--sice", "3", "x.img"], "--size"),
    ],
)
def test_wrong_words_end_with_1_and_a_near_miss(words: list[str], near: str) -> None:
    done = singularity(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert near in done.stderr


@pytest.mark.parametrize("words", [("pull",), ("exec",), ("build", "x.sif")])
def test_plain_http_is_refused_with_its_reason(words: tuple[str, ...]) -> None:
    done = singularity(*words, "http://127.0.0.1:1/i.sif", *["true"][: words[0] == "exec"])
    assert (done.returncode, done.stdout) == (255, "")
    assert "plain http" in done.stderr
    assert "https://127.0.0.1:1/i.sif" in done.stderr


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("--authfile", "REGISTRY_AUTH_FILE"),
        ("--tmpdir", "SINGBUILD_TMPDIR"),
        ("--docker-login", "registry login"),
        ("--containlibs", "--bind"),
        ("--no-oci", "leave it out"),
    ],
)
def test_an_option_of_a_launch_that_is_not_had_names_what_does_the_same(
    option: str, answer: str
) -> None:
    done = singularity("exec", option, "x.img", "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert answer in done.stderr
    assert "Did you mean" not in done.stderr


def test_an_overlay_in_the_place_of_a_file_is_refused_without_a_word_of_force(
    tmp_path: Path,
) -> None:
    (tmp_path / "i.sif").touch()
    done = singularity("overlay", "create", str(tmp_path / "i.sif"))
    assert (done.returncode, done.stdout) == (255, "")
    assert "An overlay stays a file of its own" in done.stderr
    assert "--force" not in done.stderr


def test_an_image_in_the_place_of_a_verb_is_told_how_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "sif").touch()
    done = singularity(str(tmp_path / "sif"))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"To run the image: singularity run {tmp_path}/sif" in done.stderr


def test_output_that_cannot_be_written_is_fatal() -> None:
    line = f"{DISPATCHER} buildcfg >/dev/full"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(line, shell=True, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 255
    assert done.stderr == "FATAL:   standard output cannot be written\nNo space left on device\n"


def test_a_disabled_cache_is_no_variable_without_effect() -> None:
    done = singularity("exec", "absent.img", "true", SINGULARITY_DISABLE_CACHE="1")
    assert done.returncode == 255
    assert "has no effect" not in done.stderr


def test_every_option_has_its_help_and_the_reverse() -> None:
    assert {*manual.OPTIONS} == {*options.FLAGS, *options.VALUES}
    for verb in manual.VERBS:
        page = manual.text(verb)
        assert all(f"--{name}" in page for name in manual.options_of(verb))
        assert all(len(line) <= 90 for line in page.splitlines())
