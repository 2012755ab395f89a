"""``instance``, as clients of 3.x call it: scripts, logs, lists, JSON, how it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import wait_until
from tests.bench.singrun_images import ROOT, Bench, Person

pytestmark = pytest.mark.root

STARTSCRIPT = """\
#!/bin/sh
echo "started $*" "$FROM_IMAGE"
echo broken >&2
trap 'echo ended; exit' TERM
while :; do sleep 0.1; done
"""


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    someone = bench.people["root, loop" if request.param == "root" else "user"]
    yield someone
    for each in listed(someone):
        os.kill(int(each["pid"]), signal.SIGKILL)
    for kind in ("apptainer", "singularity"):
        for name in ("web", "one", "other", "two", "job", "idle"):
            for log in logs(someone, kind).glob(f"{name}.*"):
                log.unlink()
    images.wait_for_daemons(str(bench.directory))


def logs(person: Person, kind: str) -> Path:
    """Where the output of a person's instances is kept."""
    return Path(f"{person.home}/.{kind}/instances/logs/{os.uname().nodename}/{person.name}")


@pytest.fixture(scope="module")
def service(bench: Bench) -> Path:
    """An image with a startscript."""
    tree = bench.variant("service-tree")
    images.write_script(tree / ".singularity.d/startscript", STARTSCRIPT)
    image = images.ext3(tree, bench.directory / "service.img", boot=images.LAUNCH_LINE)
    for name in ("singularity", "apptainer"):
        shutil.copy(ROOT / "bin/singularity", bench.launcher.parent / name)
    return image


def typed(person: Person, *words: str | Path, name: str = "apptainer") -> str:
    done = called(person, *words, name=name)
    assert done.returncode == 0, done
    return done.stdout.decode()


def called(
    person: Person, *words: str | Path, name: str = "apptainer"
) -> subprocess.CompletedProcess[bytes]:
    return person.call(person.launcher.parent / name, *words)


def listed(person: Person) -> list[dict[str, str | int]]:
    result: list[dict[str, str | int]] = json.loads(typed(person, "instance", "list", "--json"))[
        "instances"
    ]
    return result


def test_the_startscript_runs_and_its_output_is_kept(
    person: Person, service: Path, tmp_path: Path
) -> None:
    assert listed(person) == []
    done = called(person, "instance", "start", service, "web", "a", "b c")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"INFO:    instance started successfully\n"
    (entry,) = listed(person)
    assert {*entry} == {"instance", "pid", "img", "ip", "logErrPath", "logOutPath"}
    assert (entry["instance"], entry["img"], entry["ip"]) == ("web", str(service), "")
    log = logs(person, "apptainer") / "web.out"
    assert (entry["logOutPath"], entry["logErrPath"]) == (str(log), str(log.with_suffix(".err")))
    wait_until(lambda: "started" in log.read_text())
    assert log.read_text() == "started a b c yes it is\n"
    assert log.with_suffix(".err").read_text() == "broken\n"
    assert str(log) in typed(person, "instance", "list", "--logs")
    assert typed(person, "exec", "instance://web", "echo", "hi") == "hi\n"
    assert typed(person, "instance", "stats", "web").splitlines()[1].split()[0] == "web"
    done = called(person, "instance", "start", service, "web")
    assert done.returncode == 255
    assert b"FATAL:   There is an instance web already" in done.stderr
    done = called(person, "instance", "stop", "-t", "9", "web")
    assert (done.returncode, done.stdout) == (0, b"")
    stopping = f"INFO:    Stopping web instance of {service} (PID={entry['pid']})\n"
    assert done.stderr.decode() == stopping
    assert log.read_text().endswith("ended\n")
    assert listed(person) == []


def test_lists_and_stops_by_pattern_and_the_lot(person: Person, service: Path) -> None:
    assert typed(person, "instance", "list") == "INSTANCE NAME    PID    IP    IMAGE\n"
    for name in ("one", "other", "two"):
        typed(person, "instance", "start", service, name, name="singularity")
    lines = typed(person, "instance", "list", "o*").splitlines()
    assert [line.split()[0] for line in lines] == ["INSTANCE", "one", "other"]
    assert [line.index("  /") for line in lines[1:]] == [
        line.index("  /") for line in lines[2:]
    ] * 2
    typed(person, "instance", "stop", "--force", "o*")
    assert [each["instance"] for each in listed(person)] == ["two"]
    assert typed(person, "instance", "stop", "--all") == ""
    assert listed(person) == []


def test_run_starts_the_runscript_and_a_pid_file_names_the_process(
    person: Person, service: Path
) -> None:
    done = called(person, "instance", "run", "--pid-file", "pid", service, "job", "x")
    assert done.returncode == 0, done
    log = Path(str(listed(person)[0]["logOutPath"]))
    wait_until(lambda: log.read_text() == "run:<x>\n")
    pid_file = Path(person.home) / "pid"
    assert int(pid_file.read_text()) == listed(person)[0]["pid"]
    typed(person, "instance", "stop", "job")
    pid_file.unlink()


def test_an_image_without_a_startscript_is_an_instance_too(person: Person, bench: Bench) -> None:
    typed(person, "instance", "start", bench.image, "idle")
    assert typed(person, "exec", "instance://idle", "echo", "hi") == "hi\n"
    typed(person, "instance.stop", "idle")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("stop", "zz"), "no instance found"),
        (("stop", "--all"), "no instance found"),
        (("stop",), "--all"),
        (("stop", "--timeout", "soon", "x"), "soon"),
        (("stats", "zz"), "no instance found"),
        (("bla",), "bla"),
        (("stop", "-x", "zz"), "-x"),
        (("list", "--jsn"), "--jsn"),
    ],
)
def test_wrong_words_end_with_1(
    bench: Bench, service: Path, words: tuple[str, ...], answer: str
) -> None:
    done = called(bench.people["user"], "instance", *words)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"FATAL:   ")
    assert answer in done.stderr.decode()


def test_a_log_that_cannot_be_written_is_said(bench: Bench, service: Path) -> None:
    user = bench.people["user"]
    blocked = Path(user.home) / ".singularity"
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.touch()
    try:
        done = called(user, "instance", "start", service, "quiet", name="singularity")
        assert done.returncode == 0
        assert b"WARNING: " in done.stderr
        assert b"quiet.out is not written" in done.stderr
        typed(user, "instance", "stop", "quiet")
    finally:
        blocked.unlink()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("stop", "-s", "NONSENSE", "web"), "the signal NONSENSE"),
        (("stop", "--signal=INT", "web"), "the signal INT"),
        (("list", "-u", "root"), "instances of root"),
        (("start", "IMAGE", "bad/name"), "bad/name"),
    ],
)
def test_what_cannot_be_done_ends_with_255_and_stops_nothing(
    bench: Bench, service: Path, words: tuple[str, ...], answer: str
) -> None:
    user = bench.people["user"]
    typed(user, "instance", "start", service, "web")
    try:
        done = called(user, "instance", *(w.replace("IMAGE", str(service)) for w in words))
        assert (done.returncode, done.stdout) == (255, b"")
        assert answer in done.stderr.decode()
        assert [each["instance"] for each in listed(user)] == ["web"]
    finally:
        typed(user, "instance", "stop", "--force", "web")
