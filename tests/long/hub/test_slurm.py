"""A hub's images as arrays of Slurm's jobs, on two nodes of this machine."""

from __future__ import annotations

import filecmp
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import slurm_cluster
from tests.bench.builds import SINGBUILD
from tests.bench.host import PATIENCE, shared_directory, wait_until
from tests.bench.slurm_cluster import NODES, Cluster
from tests.host.hub.test_hub import BUSYBOX, Hub

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.xdist_group("slurm")]
pytestmark += [pytest.mark.slow("a cluster is started")]

WAITING = "%post\n  echo {} > /n; sleep {}\n"
FILES = {
    "Singularity.base": f"{BUSYBOX}%post\n  hostname > /dev/null; echo base > /etc/base\n",
    "Singularity.child": "Bootstrap: localimage\nFrom: base.sif\n%runscript\n  cat /etc/base\n",
    "grandchild.def": "Bootstrap: localimage\nFrom: child.sif\n%post\n  echo 3 > /three\n",
    "broken.def": f"{BUSYBOX}%post\n  false\n",
    "of-broken.def": "Bootstrap: localimage\nFrom: broken.sif\n",
    **{f"plain-{n}.def": BUSYBOX + WAITING.format(n, 0) for n in range(3)},
}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if not slurm_cluster.is_installed():
        pytest.skip("needs slurmctld, slurmd and munge")
    with shared_directory() as place:
        directory = place / "slurm"
        directory.mkdir()
        with slurm_cluster.cluster(directory) as cluster:
            yield cluster


@pytest.fixture
def hub(slurm: Cluster) -> Iterator[Hub]:
    with shared_directory() as place:
        yield Hub(place)


def words(hub: Hub, site: str = "site") -> list[str]:
    options = ["--slurm", "--jobs", "8", "--url", "https://hub.invalid"]
    return [*SINGBUILD, "hub", "build", *options, str(hub.repository), str(hub.directory / site)]


def variables(slurm: Cluster) -> dict[str, str]:
    """Scratch is in the nodes' own /tmp, of which the submitter's host knows nothing."""
    return {**os.environ, **slurm.variables, "SINGBUILD_TMPDIR": "/tmp"}


def run(hub: Hub, slurm: Cluster, site: str = "site") -> tuple[int, str]:
    done = subprocess.run(
        words(hub, site), env=variables(slurm), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def jobs(slurm: Cluster, form: str = "%i") -> list[str]:
    return slurm.ask("squeue", "-h", "-r", "-t", "running", "-o", form).splitlines()


def test_arrays_with_dependencies_make_the_site_that_jobs_here_make(
    hub: Hub, slurm: Cluster
) -> None:
    hub.commit(FILES)
    status, output = run(hub, slurm)
    assert status == 7, output
    assert "6 built, 0 as before, 2 failed (broken, of-broken)" in output
    assert output.count("Slurm: ") == 3, output
    completed = (slurm.directory / "completed").read_text()
    assert all(f"NodeList={name} " in completed for name in NODES)
    assert not (hub.directory / "site/.jobs").exists()
    hub.build("here", "--jobs", "2", "--url", "https://hub.invalid", cache="cache")
    one, two = (
        {path.relative_to(top): path for path in top.rglob("*") if path.is_file()}
        for top in (hub.directory / "site", hub.directory / "here")
    )
    assert one.keys() == two.keys()
    differing = {name for name in one if not filecmp.cmp(one[name], two[name], shallow=False)}
    assert {
        name for name in differing if name.parts[0] != "runs" and name.name != "log.html"
    } == set()


def test_a_killed_node_costs_time_and_no_image(hub: Hub, slurm: Cluster) -> None:
    hub.commit({f"slow-{n}.def": BUSYBOX + WAITING.format(n, 15) for n in range(4)})
    process = subprocess.Popen(
        words(hub),
        env=variables(slurm),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: {*jobs(slurm, "%N")} == {*NODES}, 60)
    slurm.lose("n1")
    try:
        output = process.communicate(timeout=300 * PATIENCE)[0]
    finally:
        slurm.restore("n1")
    assert process.returncode == 0, output
    assert "4 built" in output
    assert "Requeued" in slurm.logs() or "requeue" in slurm.logs().lower()
    status, output = run(hub, slurm)
    assert (status, "4 as before" in output) == (0, True), output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_submitter_finds_its_jobs_again(hub: Hub, slurm: Cluster, number: int) -> None:
    hub.commit(
        {f"slow-{n}.def": BUSYBOX + WAITING.format(f"{n}{number}", 8) for n in range(4)}
        | {"child.def": "Bootstrap: localimage\nFrom: slow-0.sif\n%post\n  echo > /child\n"}
    )
    process = subprocess.Popen(words(hub), env=variables(slurm), stdout=subprocess.PIPE, text=True)
    wait_until(lambda: bool(jobs(slurm)), 60)
    process.send_signal(number)
    process.communicate()
    if number == signal.SIGINT:  # who breaks off has the jobs cancelled
        slurm.wait_for("squeue", "-h", answer="")
        assert process.returncode == 130
    status, output = run(hub, slurm)
    assert status == 0, output
    assert ("an earlier run's jobs have ended" in output) == (number == signal.SIGKILL)
    assert len([*(hub.directory / "site/images").glob("*.sif")]) == 5
    assert list((hub.directory / "site").rglob("*.part")) == []


def test_jobs_that_cannot_start_say_why(hub: Hub, slurm: Cluster) -> None:
    """The nodes have no tar2sqfs: no recipe is blamed."""
    hub.commit({"one.def": BUSYBOX})
    programs = hub.directory / "bin"
    programs.mkdir()
    for place in ("/usr/sbin", "/usr/bin"):
        for each in Path(place).iterdir():
            if each.name != "tar2sqfs" and not (programs / each.name).is_symlink():
                (programs / each.name).symlink_to(each)
    done = subprocess.run(
        words(hub), env=variables(slurm) | {"PATH": str(programs)}, capture_output=True, text=True
    )
    assert "this host lacks tar2sqfs" in done.stdout, done.stdout + done.stderr
    assert "one: its process ended without a result" in done.stdout
    assert not [*(hub.directory / "site/records").glob("*")]
