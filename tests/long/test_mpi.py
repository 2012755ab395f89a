"""MPI in containers: started by the host's mpirun, by Slurm, and by the image's own mpirun."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.mpi_bench import MpiBench
from tests.bench.slurm_cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]
pytestmark += [pytest.mark.xdist_group("slurm")]  # one cluster for all

RANKS = 4
MPIRUN = ("mpirun", "--oversubscribe", "-np", str(RANKS))
SRUN = ("srun", "-Q", "-N2", f"-n{RANKS}")
# Sends 8 MB from rank to rank: more than fits into what vader copies through shared memory.
MPI4PY = """
from mpi4py import MPI
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
steps = 100000
share = sum(4 / (1 + ((i + 0.5) / steps) ** 2) / steps for i in range(rank, steps, size))
data = bytearray(8 << 20)
if rank == 0:
    data[:] = b"x" * len(data)
world.Bcast(data)
assert data == b"x" * len(data)
pi = world.allreduce(share)
print(f"rank {rank} of {size} on {MPI.Get_processor_name()}: {pi:.10f}")
"""


def output(bench: MpiBench, *words: str | Path) -> list[tuple[int, str]]:
    """(rank, node) of each line that the ranks of one program print, all with the right result."""
    done = bench.user.call(*words)
    assert (done.returncode, done.stderr) == (0, b""), done
    lines = re.findall(r"rank (\d+) of (\d+) on (\S+): 3\.14159265\d\d\n", done.stdout.decode())
    assert {int(size) for _, size, _ in lines} == {RANKS}, done
    assert done.stdout.count(b"\n") == RANKS, done
    return sorted((int(rank), node) for rank, _, node in lines)


@pytest.fixture(params=["C", "mpi4py"])
def program(request: pytest.FixtureRequest) -> list[str]:
    return ["pi"] if request.param == "C" else ["python3", "-c", MPI4PY]


def test_by_the_hosts_mpirun(mpi: MpiBench, program: list[str]) -> None:
    ranks = output(mpi, *MPIRUN, mpi.launcher, "exec", mpi.image, *program)
    assert [rank for rank, _ in ranks] == [*range(RANKS)]


def test_by_slurm_on_two_nodes(mpi: MpiBench, slurm: Cluster, program: list[str]) -> None:
    ranks = output(mpi, *SRUN, "--mpi=pmix", mpi.launcher, "exec", mpi.image, *program)
    assert ranks == [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2")]
    cyclic = (*SRUN, "--mpi=pmix", "--distribution=cyclic")
    launch: list[str | Path] = [mpi.launcher, "exec", mpi.image]
    assert output(mpi, *cyclic, *launch, *program) == [(0, "n1"), (1, "n2"), (2, "n1"), (3, "n2")]


def test_wholly_inside_the_image(mpi: MpiBench, program: list[str]) -> None:
    words: list[str | Path] = [mpi.launcher, "run", mpi.image, "--oversubscribe"]
    assert [rank for rank, _ in output(mpi, *words, "-np", str(RANKS), *program)] == [*range(RANKS)]


def test_each_rank_alone_in_its_namespaces(mpi: MpiBench, program: list[str]) -> None:
    """Where the ranks share no user namespace, the kernel lets none read another's memory."""
    ranks = output(mpi, *MPIRUN, mpi.launcher, "exec", "--no-join", mpi.image, *program)
    assert [rank for rank, _ in ranks] == [*range(RANKS)]


def test_session_directories_outside_tmp(mpi: MpiBench) -> None:
    with tempfile.TemporaryDirectory(dir="/srv") as scratch:
        Path(scratch).chmod(0o1777)
        words = ("env", f"TMPDIR={scratch}", *MPIRUN)
        assert output(mpi, *words, mpi.launcher, "exec", mpi.image, "pi")
        assert not [*Path(scratch).iterdir()]


@pytest.fixture(scope="module")
def mpich(mpi: MpiBench) -> Path:
    """A directory that holds pi for MPICH, and little else."""
    recipe = (images.ROOT / "recipes/mpi.def").read_text()
    source = recipe.partition("<<'END'\n")[2].partition("\nEND\n")[0]
    program = mpi.directory / "pi.mpich"
    command = ["mpicc.mpich", "-O2", "-o", str(program), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    tree = images.fill(mpi.directory / "mpich")
    images.copy_program(program, tree, "bin/pi")
    subprocess.run(["chmod", "-R", "a+rX", tree], check=True)
    return tree


def test_mpich_by_pmi2_and_by_its_own_launcher(mpi: MpiBench, slurm: Cluster, mpich: Path) -> None:
    # UCX takes n1 and n2 for one machine, as they are, and then looks for the other's memory.
    words = ("env", "UCX_TLS=tcp,self", *SRUN, "--mpi=pmi2")
    ranks = output(mpi, *words, mpi.launcher, "exec", mpich, "pi")
    assert ranks == [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2")]
    hydra = ("mpirun.mpich", "-np", str(RANKS))
    assert len(output(mpi, *hydra, mpi.launcher, "exec", mpich, "pi")) == RANKS


def test_the_wrong_pmi_is_refused(mpi: MpiBench, slurm: Cluster) -> None:
    done = mpi.user.call(*SRUN, "--mpi=pmi2", mpi.launcher, "exec", mpi.image, "pi")
    assert done.returncode != 0
    assert b"PMI" in done.stderr


def test_the_doctor_knows_what_goes_together(mpi: MpiBench, slurm: Cluster, mpich: Path) -> None:
    def lines(image: Path) -> list[str]:
        done = mpi.user.call(mpi.launcher, "doctor", "--mpi", image)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode().splitlines()

    own, by_mpirun, by_slurm, bound = lines(mpi.image)
    assert own == "ok        the image's MPI: Open MPI, libmpi.so.40, PMI: pmix"
    assert by_mpirun.startswith("ok        mpirun singrun exec IMAGE: the host's is of Open MPI 4.")
    assert by_slurm == "ok        srun --mpi=… singrun exec IMAGE: --mpi=pmix"
    assert bound == "ok        the host's MPI bound over the image's: libmpi.so.40 fits"
    wrong = "\n".join(lines(mpich))
    assert "MISSING   mpirun singrun exec IMAGE: the host's is of Open MPI" in wrong
    assert "the image has MPICH: each rank would run alone, as 0 of 1" in wrong
    assert "ok        srun --mpi=… singrun exec IMAGE: --mpi=pmi2" in wrong
    assert "ok        the host's MPI bound over the image's: libmpich.so.12 fits" in wrong
    plain = mpi.user.call(
        "mpirun", "--oversubscribe", "-np", "2", mpi.launcher, "exec", mpich, "pi"
    )
    assert plain.stdout.count(b"rank 0 of 1") == 2  # as the doctor says
