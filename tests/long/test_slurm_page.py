"""docs/slurm.md: its batch scripts are submitted as they stand, on a smaller cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.bench import pages
from tests.bench.mpi_bench import MpiBench
from tests.bench.singrun_images import ROOT
from tests.bench.slurm_cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]
pytestmark += [pytest.mark.xdist_group("slurm")]  # one cluster for all

# What the scripts ask for, as far as two nodes of two processors and 1,000 MB have it.
SMALLER = ("-t2", "--mem=100", "--cpus-per-task=1", "--ntasks-per-node=1")
PROGRAMS = {
    "analyse.py": "print('fine')\n",
    "simulate": "#!/bin/sh\n[ $# != 0 ] || exec pi\necho $1\n",
    "convert": "#!/bin/sh\necho $1\n",
}
PRINTED = {
    "analyse.py": "fine\n",
    "./simulate\n": "rank 1 of 2",
    "./convert": "input.3\n",
    "--checkpoint": "--checkpoint-on-usr1\n",
}


@pytest.fixture(scope="module")
def home(mpi: MpiBench, slurm: Cluster) -> Path:
    """A user's home, with the images and the programs that the page names."""
    place = Path(mpi.user.home)
    (place / "images").mkdir()
    for name in ("analysis", "mpi", "tools", "simulate"):
        (place / f"images/{name}.img").symlink_to(mpi.image)
    for name, text in PROGRAMS.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


SCRIPTS = [
    block
    for block in pages.blocks(ROOT / "docs/slurm.md")
    if block.text.startswith("#!") and "elsewhere" in block.words
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda block: block.place)
def test_the_batch_script(script: pages.Block, home: Path, mpi: MpiBench) -> None:
    file = home / "script.sh"
    file.write_text(script.text)
    array = ["--array=1-3"] if "--array" in script.text else []
    words = mpi.user.words("sbatch", "--wait", "--output=out.%a", *SMALLER, *array, str(file))
    path = f"{mpi.launcher.parent}:{os.environ['PATH']}"
    env = mpi.user.environment() | {"PATH": path}
    done = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, check=False)
    printed = ""
    for output in home.glob("out.*"):
        printed += output.read_text()
        output.unlink()
    assert done.returncode == 0, (done, printed)
    assert next(out for word, out in PRINTED.items() if word in script.text) in printed
