"""docs/site: what administrators copy works as it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.mpi_bench import MpiBench
from tests.bench.singrun_images import ROOT, Bench
from tests.bench.slurm_cluster import Cluster

pytestmark = pytest.mark.root

SITE = ROOT / "docs/site"


@pytest.mark.parametrize("script", sorted(SITE.glob("*.sh")), ids=lambda path: path.name)
def test_the_shell_can_read_them(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("name", ["login", "compute"])
def test_singrun_takes_the_configuration_without_a_word(bench: Bench, name: str) -> None:
    user = bench.people["user"]
    site = Path(shutil.copy(SITE / f"singrun.conf.{name}", bench.directory))
    given = user.environment() | {"SINGRUN_CONFIG": str(site)}
    assert user.said("exec", bench.image, "echo", "fine", env=given) == "fine\n"


def test_the_one_file_comes_to_every_node(bench: Bench, tmp_path: Path) -> None:
    """By what stands for ssh here: a shell in a directory of each node's own."""
    node = (
        'mkdir -p "$HOME/$1"; cd "$HOME/$1" 2>/dev/null || exit 255; [ "$1" != bad ] && sh -c "$2"'
    )
    images.write_script(tmp_path / "ssh", f"#!/bin/sh\n{node}\n")
    subprocess.run([images.PYTHON, "-m", "singrun.bundle", tmp_path / "pyz"], check=True, cwd=ROOT)
    given = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SINGRUN_TARGET": "./singrun"}
    given["SINGRUN_SSH"] = str(tmp_path / "ssh")
    script = str(SITE / "install-nodes.sh")
    words = ["sh", script, str(tmp_path / "pyz"), "one", "bad", "two"]
    done = subprocess.run(words, env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Not installed on: bad\n")
    for name in ("one", "two"):
        version = subprocess.check_output([tmp_path / name / "singrun", "--version"], text=True)
        assert done.stdout.count(version) == 2
        assert not (tmp_path / name / "singrun.new").exists()


@pytest.mark.long
@pytest.mark.network
@pytest.mark.xdist_group("slurm")
def test_prologue_and_epilogue(mpi: MpiBench, slurm: Cluster, tmp_path: Path) -> None:
    job = {"SLURM_JOB_UID": str(mpi.user.uid), "SLURM_JOB_ID": "99999", "SLURMD_NODENAME": "n1"}
    given = os.environ | slurm.variables | job | {"SINGRUN_SITE_CACHE": str(tmp_path)}
    cache = tmp_path / f"singrun-{mpi.user.uid}"
    subprocess.run(["sh", SITE / "prolog.sh"], env=given, check=True)
    assert (cache.stat().st_uid, cache.stat().st_mode & 0o777) == (mpi.user.uid, 0o700)
    words = mpi.user.words("srun", "-Q", "-w", "n1", "-n1", "sleep", "60")
    other = subprocess.Popen(words, env=mpi.user.environment(), cwd="/", stderr=subprocess.DEVNULL)
    ask = ("squeue", "-h", "-u", mpi.user.name, "-t", "running", "-o", "%N")
    slurm.wait_for(*ask, said="n1")
    subprocess.run(["sh", SITE / "epilog.sh"], env=given, check=True)
    assert cache.exists()  # another job of the user's is still there
    slurm.ask("scancel", "--user", mpi.user.name)
    other.wait()
    slurm.wait_for("squeue", "-h", "-u", mpi.user.name, said="")
    subprocess.run(["sh", SITE / "epilog.sh"], env=given, check=True)
    assert not cache.exists()
