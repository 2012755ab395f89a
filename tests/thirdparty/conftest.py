"""A clean virtual environment with our wheel, as somebody else has it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

collect_ignore_glob = ["singbuild-*"]  # their tests run where they are installed
REPOSITORY = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Elsewhere:
    """A virtual environment. bin: its programs; base: a directory for wheels."""

    bin: Path
    base: Path

    def run(
        self, program: str, *words: str | Path, cwd: Path | None = None, status: int | None = 0
    ) -> str:
        """Run a program of the environment; return what it prints, errors too."""
        path = f"{self.bin}:{os.environ['PATH']}"
        done = subprocess.run(
            [self.bin / program, *words],
            cwd=cwd or self.base,
            env={**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert status in (None, done.returncode), done.stdout
        return done.stdout

    def wheel(self, project: Path) -> Path:
        """Build a project's wheel and return it."""
        before = set(self.base.glob("*.whl"))
        self.run("pip", "wheel", "-q", "--no-deps", "-w", self.base, project)
        return (set(self.base.glob("*.whl")) - before).pop()

    def install(self, *what: str | Path, options: Sequence[str] = ()) -> None:
        """Install wheels or requirements."""
        self.run("pip", "install", "-q", *options, *what)


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    """A virtual environment with our wheel and pytest in it, and nothing of this checkout.

    It is not below pytest's directory, which no other user may enter.
    """
    with tempfile.TemporaryDirectory(prefix="singbuild-elsewhere-") as directory:
        base = Path(directory)
        base.chmod(0o755)
        subprocess.run([sys.executable, "-m", "venv", base / "venv"], check=True)
        result = Elsewhere(base / "venv/bin", base)
        result.install(result.wheel(REPOSITORY), "pytest", "pytest-timeout")
        yield result
