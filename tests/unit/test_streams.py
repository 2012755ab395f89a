"""Standard streams that are full, closed, or a pipe nobody reads; no directory; no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.singrun_images import ROOT

SINGBUILD = (sys.executable, "-m", "singbuild")
COMMANDS = [
    ("--version",),
    ("--help",),
    ("help", "build"),
    ("backends",),
    ("formats",),
    ("config", "show"),
    ("cache", "list"),
    ("plan", "a.def"),
    ("plan", "--json", "a.def"),
    ("completion", "bash"),
    ("backends", "nothing"),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.def").write_text("Bootstrap: busybox\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))


def ended(redirection: str, *words: str) -> tuple[int, str]:
    """Execute a command whose standard streams a shell has redirected."""
    line = f'exec "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *SINGBUILD, *words], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written_is_an_error(words: tuple[str, ...]) -> None:
    status, messages = ended(">/dev/full", *words)
    if words == ("backends", "nothing"):  # it prints nothing there
        assert status == 4
    else:
        assert (status, "No space left on device" in messages) == (5, True), messages


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_closed_stream_is_an_empty_one(words: tuple[str, ...]) -> None:
    expected = ended(">/dev/null", *words)
    assert ended(">&-", *words) == expected
    assert ended("<&- >&-", *words) == expected
    assert ended("<&- >&- 2>&-", *words) == (expected[0], "")


@pytest.mark.parametrize("words", [("help", "build"), ("help", "backends"), ("--version",)])
def test_a_pipe_that_nobody_reads_says_nothing(words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [*SINGBUILD, *words]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("words", [("plan", "f.def"), ("build", "f.def", "a.img")])
def test_a_current_directory_that_is_gone_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "f.def").write_text("Bootstrap: busybox\n%files\n    relative /x\n")
    directory = tmp_path / "gone"
    directory.mkdir()
    names = [str(tmp_path / word) if "." in word else word for word in words]
    line = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    argv = ["sh", "-c", line, "sh", str(directory), *SINGBUILD, *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "the current directory has been removed" in done.stderr, done.stderr
    assert done.returncode == 5


@pytest.mark.parametrize(
    "words",
    [
        ("bin/singrun", "exec", "../i.img", "true"),
        ("bin/singrun", "mount", "../i.img", "/mnt"),
        ("bin/singularity", "build", "../x.sif", "../i.img"),
        ("bin/singularity", "overlay", "create", "x.img"),
    ],
)
def test_clients_too_are_told_of_a_current_directory_that_is_gone(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "i.img").write_bytes(bytes(4096))
    line = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    argv = ["sh", "-c", line, "sh", str(tmp_path / "gone"), str(ROOT / words[0]), *words[1:]]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 255
    assert "he current directory has been removed" in done.stderr
    assert "Go to one that is there." in done.stderr


LITTLE = """
import os, resource, sys
from singbuild.cli.main import main
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (15 << 20),) * 2)
main()
"""


def test_memory_that_is_not_to_be_had_is_the_host_s_fault() -> None:
    argv = [sys.executable, "-c", LITTLE, "plan", "a.def"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert "Cannot allocate memory\nA limit may be too low: see ulimit -a" in done.stderr
