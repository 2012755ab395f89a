"""The runtime as a single file does what the installed one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import singrun_images as images

pytestmark = pytest.mark.root


def test_the_tests_of_launches_once_more_against_the_single_file() -> None:
    chosen = "(user or loop) and not unpack and not exit_status and not killed and not moment"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    files = [
        "tests/host/runtime/test_singrun_launch.py",
        "tests/host/runtime/test_singrun_options.py",
    ]
    done = subprocess.run(
        [*command, *files],
        cwd=images.ROOT,
        env=os.environ | {"SINGRUN_TEST_PYZ": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_it_is_one_file_that_python_runs_too_and_always_the_same(tmp_path: Path) -> None:
    tree = images.fill(tmp_path / "tree")
    for name in ("one", "two"):
        command: list[images.Word] = [images.PYTHON, "-m", "singrun.bundle", tmp_path / name]
        subprocess.run(command, check=True, cwd=images.ROOT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    single = Path(shutil.copy(tmp_path / "one", tmp_path / "singrun.pyz"))
    starts: list[list[images.Word]] = [[single], [images.PYTHON, "-IS", single]]
    for start in starts:
        words: list[images.Word] = [*start, "exec", tree, "echo", "x"]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("x\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "one", "two", "singrun.pyz"}
