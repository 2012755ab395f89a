"""``singrun doctor --mpi`` with libraries and launchers that say what real ones say of themselves.

tests/long/test_mpi.py has the real ones, of two kinds, and lets them run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from singrun.verbs.mpi_check import findings_for
from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person
from tests.host.runtime.test_drivers import library

pytestmark = pytest.mark.root

FITS = [
    "ok        the image's MPI: Open MPI, libmpi.so.40, PMI: pmix",
    "ok        mpirun singrun exec IMAGE: the host's is of Open MPI 4.1.4",
    "ok        srun --mpi=… singrun exec IMAGE: --mpi=pmix",
]


@pytest.fixture
def user(bench: Bench) -> Person:
    """Whose host has Open MPI and Slurm."""
    programs = bench.directory / "programs"
    programs.mkdir(exist_ok=True)
    images.write_script(programs / "mpirun", "#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n")
    images.write_script(programs / "srun", "#!/bin/sh\necho MPI plugin types are: pmi2,pmix\n")
    user = Person(bench.user, bench.launcher)
    user.variables["PATH"] = f"{programs}:/usr/bin:/bin"
    return user


def lines(user: Person, image: Path) -> list[str]:
    done = user.call(user.launcher, "doctor", "--mpi", image)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode().splitlines()


def test_open_mpi_that_fits(bench: Bench, user: Person) -> None:
    tree = bench.variant("open-mpi")
    pmix = library(tree / "usr/lib/libpmix.so.2", "1")
    library(tree / "usr/lib/libmpi.so.40", "2", "-Wl,--no-as-needed", pmix)
    assert lines(user, tree)[:3] == FITS
    assert lines(user, images.ext3(tree, bench.directory / "open-mpi.img"))[:3] == FITS
    images.wait_for_daemons(bench.directory)


def test_mpich_under_the_mpirun_of_another(bench: Bench, user: Person) -> None:
    tree = bench.variant("mpich")
    library(tree / "usr/lib/libmpi.so.12", "3", before='char version[] = "MPICH Version: 4.0";')
    own, by_mpirun, by_slurm, bound = [
        line for line in lines(user, tree) if line.startswith(("ok ", "MISSING ", "no "))
    ]
    assert own == "ok        the image's MPI: MPICH, libmpi.so.12, PMI: pmi2"
    assert by_mpirun.startswith("MISSING   mpirun singrun exec IMAGE: the host's is of Open MPI")
    assert by_slurm == "ok        srun --mpi=… singrun exec IMAGE: --mpi=pmi2"
    assert "the image's programs want libmpi.so.12" in bound


def test_an_image_without_mpi(bench: Bench, user: Person) -> None:
    assert "the image's MPI: none (libmpi.so.40, libmpich.so.12 …)" in lines(user, bench.image)[0]
    images.wait_for_daemons(bench.directory)


def test_what_the_doctor_warns_of() -> None:
    image = {"family": ["Open MPI"], "soname": ["libmpi.so.40"], "pmi": ["pmix"]}
    image |= {"wanted": ["GLIBC_2.17"], "given": ["GLIBC_2.17"]}
    host = image | {"wanted": ["GLIBC_2.17", "GLIBC_2.34"]}
    texts = [each.line() for each in findings_for(image, host, "", ["pmi2"])]
    assert "this host has no mpirun" in texts[1]
    assert "Slurm speaks pmi2, the image's MPI pmix: each rank would run alone" in texts[2]
    assert "needs GLIBC_2.34, which the image's libc.so.6 has not" in texts[3]
    nothing = findings_for({"given": []}, host, "", None)
    assert "the image's MPI: none" in nothing[0].line()
