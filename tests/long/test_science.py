"""What scientists bring, as docs/science.md and the recipes have it: built, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD
from tests.bench.singrun_images import ROOT

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]

AUTHORITIES = Path(
    "/etc/ssl/certs/ca-certificates.crt"
)  # pip in the image trusts whom the host does


def test_a_python_program_with_its_libraries(tmp_path: Path) -> None:
    for file in (ROOT / "recipes/python").iterdir():
        shutil.copy(file, tmp_path)
    recipe = tmp_path / "analysis.def"
    text = recipe.read_text().replace("%files\n", f"%files\n    {AUTHORITIES} /opt/host.crt\n", 1)
    recipe.write_text(text)
    words = [*SINGBUILD, "-q", "--build-arg", "pip=--cert /opt/host.crt", recipe.name, "a.img"]
    subprocess.run(words, cwd=tmp_path, check=True)
    (tmp_path / "numbers").write_text("1\n2\n6\n")
    wrong = tmp_path / ".local/lib/python3.11/site-packages/numpy"
    wrong.mkdir(parents=True)
    (wrong / "__init__.py").write_text("raise ImportError('that of the home')\n")
    command = [str(ROOT / "bin/singrun"), "run", "--home", str(tmp_path), "a.img", "numbers"]
    said = subprocess.check_output(command, cwd=tmp_path, text=True, env=os.environ)
    assert said == "numbers: 3 numbers, mean 3, deviation 2.16025\n"
