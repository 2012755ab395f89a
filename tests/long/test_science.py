"""What scientists bring, as docs/science.md and the recipes have it: built, and run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD
from tests.bench.host import wait_until
from tests.bench.singrun_images import ROOT
from tests.long.test_singrun_terminal import start_display

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]

# pip in the image trusts whom the host does.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
SINGRUN = str(ROOT / "bin/singrun")


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
    output = subprocess.check_output(command, cwd=tmp_path, text=True, env=os.environ)
    assert output == "numbers: 3 numbers, mean 3, deviation 2.16025\n"


def test_jupyter_with_a_kernel(tmp_path: Path) -> None:
    for file in (ROOT / "recipes/jupyter").iterdir():
        shutil.copy(file, tmp_path)
    recipe = tmp_path / "jupyter.def"
    text = recipe.read_text().replace("%files\n", f"%files\n    {AUTHORITIES} /opt/host.crt\n", 1)
    recipe.write_text(text)
    words = [*SINGBUILD, "-q", "--build-arg", "pip=--cert /opt/host.crt", recipe.name, "a.img"]
    subprocess.run(words, cwd=tmp_path, check=True)  # its %test executes a notebook
    command = [SINGRUN, "run", "--home", str(tmp_path), "a.img"]
    env = on_path()
    # As a kernel of another Jupyter: one of the image with another kernel's file.
    kernel = tmp_path / ".local/share/jupyter/kernels/other"
    kernel.mkdir(parents=True)
    argv = ["python3", "-m", "ipykernel", "-f", "{connection_file}"]
    about = {"argv": argv, "display_name": "a.img", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about))
    cell: dict[str, object] = {"cell_type": "code", "source": "6 * 7"}
    cell |= {"outputs": [], "metadata": {}, "execution_count": None}
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell]}
    (tmp_path / "sum.ipynb").write_text(json.dumps(notebook))
    words = [*command, "execute", "--inplace", "--kernel_name=other", "sum.ipynb"]
    subprocess.run(words, cwd=tmp_path, env=env, check=True)
    result = json.loads((tmp_path / "sum.ipynb").read_text())
    assert result["cells"][0]["outputs"][0]["data"]["text/plain"] == ["42"]
    # The lab answers.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    log = tmp_path / "lab.log"
    with log.open("w") as out:
        words = [*command, "lab", *options]
        lab = subprocess.Popen(words, cwd=tmp_path, env=env, stderr=out, stdout=out)
    url = f"http://127.0.0.1:{port}/lab?token="

    def answers() -> bool:
        token = re.search(r"/lab\?token=(\w+)", log.read_text())
        with contextlib.suppress(OSError):
            page = urllib.request.urlopen(url + token[1]).read() if token else b""
            return b"JupyterLab" in page
        return False

    try:
        wait_until(answers)
    finally:
        lab.terminate()
        lab.wait()


def built(name: str, place: Path) -> str:
    """Build a recipe as it stands; its image."""
    image = f"{place}/{name}.img"
    subprocess.run([*SINGBUILD, "-q", f"recipes/{name}.def", image], cwd=ROOT, check=True)
    return image


def test_r_with_a_package_of_cran(tmp_path: Path) -> None:
    image = built("r", tmp_path)
    (tmp_path / "numbers").write_text("1\n2\n6\n")
    out = subprocess.check_output([image, "numbers"], cwd=tmp_path, text=True, env=on_path())
    assert json.loads(out) == {"file": "numbers", "n": 3, "mean": 3}


def on_path() -> dict[str, str]:
    return os.environ | {"PATH": f"{ROOT}/bin:{os.environ['PATH']}"}


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="Xvfb is not installed")
def test_windows(tmp_path: Path) -> None:
    image = built("x11", tmp_path)
    number, server = start_display(tmp_path)
    env = on_path() | {"DISPLAY": f":{number}"}
    dump = [SINGRUN, "exec", image, "xwd", "-root", "-silent"]

    def is_drawn() -> bool:
        done = subprocess.run(dump, env=env, capture_output=True, check=False, cwd="/")
        return done.returncode == 0 and len(done.stdout) > 10000

    try:
        wait_until(is_drawn)
        done = subprocess.run(["timeout", "5", image], env=env, check=False, cwd="/")
        assert done.returncode == 124  # the clock went until it was stopped
    finally:
        server.terminate()
        server.wait()
