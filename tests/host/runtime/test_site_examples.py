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
    environment = user.environment() | {"SINGRUN_CONFIG": str(site)}
    assert user.output("exec", bench.image, "echo", "fine", env=environment) == "fine\n"


def test_the_one_file_comes_to_every_node(bench: Bench, tmp_path: Path) -> None:
    """By what stands for ssh here: a shell in a directory of each node's own."""
    node = (
        'mkdir -p "$HOME/$1"; cd "$HOME/$1" 2>/dev/null || exit 255; [ "$1" != bad ] && sh -c "$2"'
    )
    images.write_script(tmp_path / "ssh", f"#!/bin/sh\n{node}\n")
    subprocess.run([images.PYTHON, "-m", "singrun.bundle", tmp_path / "pyz"], check=True, cwd=ROOT)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SINGRUN_TARGET": "./singrun"}
    environment["SINGRUN_SSH"] = str(tmp_path / "ssh")
    script = str(SITE / "install-nodes.sh")
    words = ["sh", script, str(tmp_path / "pyz"), "one", "bad", "two"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Not installed on: bad\n")
    none = subprocess.run(words[:3], env=environment, capture_output=True, text=True, check=False)
    assert none.returncode != 0
    assert "install-nodes.sh singrun.pyz NODE..." in none.stderr
    for name in ("one", "two"):
        version = subprocess.check_output([tmp_path / name / "singrun", "--version"], text=True)
        assert done.stdout.count(version) == 2
        assert not (tmp_path / name / "singrun.new").exists()


def prologue(parent: Path, uid: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SLURM_JOB_UID": str(uid), "SINGRUN_SITE_CACHE": str(parent)}
    words = ["sh", str(SITE / "prolog.sh")]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def owned(place: Path) -> tuple[int, int]:
    return place.lstat().st_uid, place.lstat().st_mode & 0o7777


def test_the_prologue_makes_a_private_place_and_keeps_it(bench: Bench, tmp_path: Path) -> None:
    user = bench.people["user"]
    for _ in range(2):
        done = prologue(tmp_path / "parent", user.uid)
        assert (done.returncode, done.stderr) == (0, "")
        assert owned(tmp_path / "parent") == (0, 0o755)
        assert owned(tmp_path / f"parent/singrun-{user.uid}") == (user.uid, 0o700)
        (tmp_path / f"parent/singrun-{user.uid}/tree").mkdir(exist_ok=True)


@pytest.mark.parametrize("what", ["link", "a stranger's", "file"])
def test_the_prologue_refuses_what_others_have_put_there(
    bench: Bench, tmp_path: Path, what: str
) -> None:
    user, parent, victim = bench.people["user"], tmp_path / "parent", tmp_path / "victim"
    victim.mkdir(mode=0o755)
    parent.mkdir(mode=0o755)
    place = parent / f"singrun-{user.uid}"
    if what == "link":
        place.symlink_to(victim)
        os.chown(place, user.uid, user.gid, follow_symlinks=False)
    elif what == "file":
        place.touch(0o700)
        os.chown(place, user.uid, user.gid)
    else:
        place.mkdir(mode=0o700)
        os.chown(place, 33, 33)
    before = owned(victim), owned(place)
    done = prologue(parent, user.uid)
    assert (done.returncode, str(place) in done.stderr) == (0, True)  # else the node is drained
    assert (owned(victim), owned(place)) == before


def test_the_prologue_closes_what_its_user_has_opened(bench: Bench, tmp_path: Path) -> None:
    user, place = bench.people["user"], tmp_path / f"parent/singrun-{bench.people['user'].uid}"
    prologue(tmp_path / "parent", user.uid)
    place.chmod(0o777)
    done = prologue(tmp_path / "parent", user.uid)
    assert (done.returncode, done.stderr, owned(place)) == (0, "", (user.uid, 0o700))


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_the_prologue_refuses_a_parent_that_others_may_write(
    bench: Bench, tmp_path: Path, mode: int
) -> None:
    user, parent = bench.people["user"], tmp_path / "parent"
    parent.mkdir()
    parent.chmod(mode)
    done = prologue(parent, user.uid)
    assert (done.returncode, str(parent) in done.stderr) == (0, True)
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize(
    ("squeue", "stays"),
    [
        ("exit 1", True),  # the controller does not answer
        ("exit 127", True),
        ("echo 7; echo 8", True),  # another job of the user's
        ("echo 7", False),
        ("true", False),
    ],
)
def test_the_epilogue_removes_only_what_no_job_uses(
    tmp_path: Path, squeue: str, stays: bool
) -> None:
    images.write_script(tmp_path / "squeue", f"#!/bin/sh\n{squeue}\n")
    (tmp_path / "site/singrun-12345/tree").mkdir(parents=True)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    environment |= {"SLURM_JOB_UID": "12345", "SINGRUN_SITE_CACHE": str(tmp_path / "site")}
    subprocess.run(["sh", SITE / "epilog.sh"], env=environment, check=True)
    assert (tmp_path / "site/singrun-12345").exists() == stays


def test_one_place_is_named_for_caches() -> None:
    """The prologue makes, the epilogue removes and the configuration uses the same directory."""
    place = "/scratch/singrun/singrun-"
    assert f"cache directory = {place}%U\n" in (SITE / "singrun.conf.compute").read_text()
    for name in ("prolog.sh", "epilog.sh"):
        text = (SITE / name).read_text()
        assert "${SINGRUN_SITE_CACHE:-/scratch/singrun}" in text
        assert "/singrun-${SLURM_JOB_UID" in text
    assert "CACHEDIR" not in "".join(path.read_text() for path in SITE.iterdir())


@pytest.mark.long
@pytest.mark.network
@pytest.mark.xdist_group("slurm")
def test_prologue_and_epilogue(mpi: MpiBench, slurm: Cluster, tmp_path: Path) -> None:
    job = {"SLURM_JOB_UID": str(mpi.user.uid), "SLURM_JOB_ID": "99999", "SLURMD_NODENAME": "n1"}
    environment = (
        os.environ | slurm.variables | job | {"SINGRUN_SITE_CACHE": str(tmp_path / "site")}
    )
    cache = tmp_path / f"site/singrun-{mpi.user.uid}"
    subprocess.run(["sh", SITE / "prolog.sh"], env=environment, check=True)
    assert (cache.stat().st_uid, cache.stat().st_mode & 0o777) == (mpi.user.uid, 0o700)
    words = mpi.user.words("srun", "-Q", "-w", "n1", "-n1", "sleep", "60")
    other = subprocess.Popen(words, env=mpi.user.environment(), cwd="/", stderr=subprocess.DEVNULL)
    ask = ("squeue", "-h", "-u", mpi.user.name, "-t", "running", "-o", "%N")
    slurm.wait_for(*ask, answer="n1")
    subprocess.run(["sh", SITE / "epilog.sh"], env=environment, check=True)
    assert cache.exists()  # another job of the user's is still there
    slurm.ask("scancel", "--user", mpi.user.name)
    other.wait()
    slurm.wait_for("squeue", "-h", "-u", mpi.user.name, answer="")
    subprocess.run(["sh", SITE / "epilog.sh"], env=environment, check=True)
    assert not cache.exists()
