"""Builds in the tests: the real command, its own caches, and a look at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SINGBUILD = (sys.executable, "-m", "singbuild")
Build = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe and return its path."""

    def write(text: str, name: str = "recipe.def") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def singbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Run the real command in ``tmp_path``; its scratch is ``tmp_path/scratch``."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("SINGBUILD_TMPDIR", str(scratch))

    def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        argv = [*SINGBUILD, *map(str, words)]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, **more)

    return run


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    """Check that a build left no target, part file or scratch; mounts are counted elsewhere."""

    def check() -> None:
        left = [str(p.relative_to(tmp_path)) for p in (tmp_path / "scratch").rglob("*")]
        parts = [p.name for p in tmp_path.iterdir() if p.suffix == ".part"]
        assert (left, parts) == ([], [])
        assert not (tmp_path / "a.img").exists()

    return check


def wait_until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that happens soon, such as the end of a killed process's children."""
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.05)
    assert is_so()


def killed_in(
    phase: str, number: signal.Signals, words: list[str | Path], cwd: Path, delay: float = 0.2
) -> int:
    """Start a build, send it a signal a little into a phase, return its status."""
    process = subprocess.Popen(
        [*SINGBUILD, "build", "--json", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "phase" and event["name"] == phase:
            time.sleep(delay)
            process.send_signal(number)
            break
    process.stdout.read()
    process.stdout.close()
    return process.wait()
