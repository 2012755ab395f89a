"""singbuild as pip installs it, from a copy of this checkout, where every user may execute it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.once import once
from tests.bench.singrun_images import PYTHON, ROOT


def programs() -> Path:
    """The directory of its programs; it is installed once in a run of the tests."""
    return once("installation", _install) / "venv/bin"


def _install(directory: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*", "tests")
    shutil.copytree(ROOT, directory / "checkout", ignore=ignored)
    # Without a pip of its own, which takes 3 s to install, and which nobody calls.
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(directory / "venv")]
    subprocess.run([*pip, "install", "-q", directory / "checkout"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
