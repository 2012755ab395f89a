"""Slurm's own containers: srun --container, with the oci.conf of docs/site."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench import slurm_cluster
from tests.bench.host import shared_directory, wait_until
from tests.bench.singrun_images import ROOT, Person

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]
pytestmark += [pytest.mark.xdist_group("slurm")]  # one cluster at a time

CONFIG = {
    "ociVersion": "1.0.0",
    "root": {"path": "rootfs", "readonly": True},
    "process": {"args": ["/bin/sh"], "env": ["PATH=/bin", "FROM_BUNDLE=1"], "cwd": "/etc"},
}


@pytest.fixture(scope="module")
def bundle() -> Iterator[tuple[Person, Path, slurm_cluster.Cluster]]:
    """Who submits, an OCI bundle of his, the cluster."""
    with shared_directory() as directory, images.ordinary_user("oci") as name:
        directory.chmod(0o755)
        for each in ("bin", "singrun"):  # in sight of the nodes, whose /tmp is their own
            shutil.copytree(ROOT / each, directory / each)
        shutil.copy(ROOT / "docs/site/oci-run", directory)
        conf = (ROOT / "docs/site/oci.conf").read_text()
        (directory / "oci.conf").write_text(conf.replace("/usr/local/libexec", str(directory)))
        place = directory / "bundle"
        images.fill(place / "rootfs")
        (place / "config.json").write_text(json.dumps(CONFIG))
        subprocess.run(["chown", "-R", name, place], check=True)
        with slurm_cluster.cluster(directory) as slurm:
            person = Person(name, Path("singularity"))
            path = f"{directory}/bin:{person.environment()['PATH']}"
            person.variables = slurm.variables | {"PATH": path, "MINE": "two words"}
            yield person, place, slurm


Bundle = tuple[Person, Path, slurm_cluster.Cluster]


def test_a_step_runs_in_the_bundle(bundle: Bundle) -> None:
    """Slurm 22.05 takes one task a node, and does not tell it SLURM_PROCID."""
    person, place, _ = bundle
    script = (
        'echo "$1|$MINE|$FROM_BUNDLE|$SLURM_STEP_NUM_TASKS|$(pwd)|$(id -un)"; ls /made-here; exit 3'
    )
    (place / "rootfs/made-here").touch()
    words = ("srun", "-Q", "-N2", "--ntasks-per-node=1", "--label", f"--container={place}")
    done = person.call(*words, "sh", "-c", script, "sh", "a b")
    assert done.returncode == 3, done
    lines = sorted(done.stdout.decode().splitlines())
    answer = [f"{rank}: a b|two words|1|2|/etc|{person.name}" for rank in (0, 1)]
    assert lines == sorted([*answer, "0: /made-here", "1: /made-here"]), done


def test_a_batch_script_runs_in_the_bundle(bundle: Bundle) -> None:
    person, place, slurm = bundle
    output = Path(person.home) / "out"
    script = Path(person.home) / "job.sh"
    script.write_text("#!/bin/sh\nls /made-in-batch\necho $SLURM_JOB_NUM_NODES\n")
    (place / "rootfs/made-in-batch").touch()
    words = ("sbatch", "--parsable", f"--output={output}", f"--container={place}", script)
    done = person.call(*words)
    assert done.returncode == 0, done
    slurm.wait_for("squeue", "-h", "-j", done.stdout.decode().strip(), answer="")
    assert output.read_text() == "/made-in-batch\n1\n"


def test_cancelling_ends_the_container(bundle: Bundle) -> None:
    person, place, slurm = bundle
    words = ("srun", "-Q", f"--container={place}", "sh", "-c", "sleep 4321; true")
    with subprocess.Popen(person.words(*words), env=person.environment(), cwd="/") as srun:

        def sleepers() -> str:
            ps = ["ps", "-u", person.name, "-o", "args="]
            lines = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
            return "\n".join(line for line in lines.splitlines() if line == "sleep 4321")

        wait_until(lambda: bool(sleepers()), 30)
        slurm.ask("scancel", "--user", person.name)
        assert srun.wait(60) != 0
    wait_until(lambda: not sleepers(), 30)
