"""A run of the tests: what it allows them to take, and what it leaves when it is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.host import VARIABLE, wait_until
from tests.bench.singrun_images import ROOT

PROMPT = "def test_prompt(): pass\n"
LATE = """
import time
import pytest

def test_late():
    time.sleep(1.5)

@pytest.mark.slow('it sleeps')
def test_that_says_so():
    time.sleep(1.5)
"""
SLEEPS = """
import time
import pytest
from pathlib import Path

@pytest.fixture
def place():
    yield Path({directory!r})
    (Path({directory!r}) / "torn down").touch()

def test_sleeps(place):
    (place / "began").touch()
    time.sleep(600)
"""


def start(directory: Path, text: str, *words: str, **more: str) -> subprocess.Popen[str]:
    """Start a run of its own over one file, with what conftest.py does for all."""
    (directory / "test_it.py").write_text(text)
    (directory / "tmp").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"TMPDIR": str(directory / "tmp"), **more}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    argv += [f"--rootdir={directory}", *words, f"{directory}/test_it.py"]
    return subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    )


def test_what_takes_too_long_fails(tmp_path: Path) -> None:
    # The limit of 30 seconds shrinks to some second or so, by what the host is busy with.
    patience = str(1.2 / 30 / max(1, os.getloadavg()[0]))
    with start(tmp_path, PROMPT + LATE, "-rA", SINGBUILD_TEST_PATIENCE=patience) as run:
        output = run.communicate()[0]
    assert run.returncode == 1, output
    rows = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(test_\w+)", output, re.M)
    assert sorted(rows) == [
        ("FAILED", "test_late"),
        ("PASSED", "test_prompt"),
        ("PASSED", "test_that_says_so"),
    ], output
    assert "make it quicker, or say why" in output


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_with_a_slow_test_begins_first(tmp_path: Path, workers: str) -> None:
    """Of whatever number of tests: a worker that begins it at the end keeps the others idle."""
    many = tmp_path / "test_many.py"
    many.write_text("".join(PROMPT.replace("prompt", f"prompt_{n}") for n in range(3)))
    text = "import pytest\n" + f"@pytest.mark.slow('it is said')\n{PROMPT}"
    with start(tmp_path, text, "-vv", f"-n{workers}", "--dist", "loadgroup", str(many)) as run:
        output = run.communicate()[0]
    names = re.findall(r"::(test_\w+) PASSED|PASSED \S+::(test_\w+)", output)
    assert [name or other for name, other in names] == [
        "test_prompt",
        *(f"test_prompt_{n}" for n in range(3)),
    ]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_sigterm_ends_a_run_as_an_interrupt_does(tmp_path: Path, workers: str) -> None:
    with start(tmp_path, SLEEPS.format(directory=str(tmp_path)), f"-n{workers}") as run:
        wait_until(lambda: (tmp_path / "began").exists())
        run.send_signal(signal.SIGTERM)
        output = run.communicate()[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert list((tmp_path / "tmp").glob("tests-run-*")) == []
    if workers == "0":
        assert (tmp_path / "torn down").exists()


LEAVES = """
import os
import subprocess
import time
from pathlib import Path

def test_leaves_a_daemon():
    subprocess.run(["sh", "-c", "setsid sleep 600 & echo $! > {directory}/daemon"])
    Path("{directory}/began").touch()
    time.sleep(600)
"""


@pytest.mark.parametrize("group", [True, False], ids=["its group", "itself"])
def test_a_killed_run_leaves_no_process_and_no_directory(tmp_path: Path, group: bool) -> None:
    with start(tmp_path, LEAVES.format(directory=tmp_path), "-n1") as run:
        wait_until(lambda: (tmp_path / "began").exists())
        daemon = (tmp_path / "daemon").read_text().strip()
        assert Path(f"/proc/{daemon}").exists()
        kill = os.killpg if group else os.kill
        kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{daemon}").exists())
    wait_until(lambda: not list((tmp_path / "tmp").glob("tests-run-*")))
