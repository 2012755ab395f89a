"""Under Slurm a container is a job step like any other: limits, ends, signals, and nothing left."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, random_numbers, wait_until
from tests.bench.mpi_bench import MpiBench
from tests.bench.slurm_cluster import HAVE_CGROUPS, NODES, Cluster
from tests.host.runtime.test_singrun_terminal import terminal_of

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]
pytestmark += [pytest.mark.xdist_group("slurm")]  # one cluster for all
pytestmark += [pytest.mark.slow("a cluster is started, and killed 50 times")]

ARRAY, KILLS = 200, 50
# A killed slurmd takes longest: Slurm has to notice that it is there again.
KINDS = (*("rank", "first rank", "step") * 3, "all ranks", "slurmd")
# What a resource manager gives its processes, as these see it.
_SETTINGS = """
cat /proc/self/cgroup
grep _allowed /proc/self/status
grep -v '^Limit' /proc/self/limits
cat /proc/self/oom_score_adj
"""


@pytest.fixture(scope="module")
def small(mpi: MpiBench) -> Path:
    tree = images.fill(mpi.directory / "small")
    return images.ext3(tree, mpi.directory / "small.img", boot=images.LAUNCH_LINE)


@pytest.fixture(scope="module")
def overdue(mpi: MpiBench, small: Path, slurm: Cluster) -> Iterator[tuple[images.Person, str]]:
    """Another user's job, which runs into its time limit while the other tests run; its id."""
    with images.ordinary_user("late") as name:
        late = images.Person(name, mpi.launcher)
        late.variables = mpi.user.variables
        yield late, submitted(late, "-t1", "--mem=50", f"--wrap={launch(mpi, small)} sleep 400")


@pytest.fixture(autouse=True)
def nothing_left(
    mpi: MpiBench, slurm: Cluster, overdue: tuple[images.Person, str]
) -> Iterator[Callable[[], None]]:
    """Wait until no process, mount, socket or file of the user's containers is left anywhere."""

    def check() -> None:
        check_nothing_left(mpi, slurm, mpi.user)

    yield check
    check()


def check_nothing_left(mpi: MpiBench, slurm: Cluster, person: images.Person) -> None:
    until = time.monotonic() + 40 * PATIENCE
    while result := left_over(mpi, slurm, person):
        assert time.monotonic() < until, "\n".join(result)
        time.sleep(0.05)


def left_over(mpi: MpiBench, slurm: Cluster, person: images.Person) -> list[str]:
    ps = ["ps", "-u", person.name, "-o", "pid=,stat=,args="]
    lines = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.splitlines()
    result = [line for line in lines if line.split()[1] != "Z"]
    for name in NODES:
        node = Path(f"/proc/{slurm.nodes[name].pid}")
        mounts = images.read(node / "mountinfo").splitlines()
        result += [line for line in mounts if str(mpi.directory) in line]
        places = [path for d in ("tmp", "dev/shm") for path in (node / "root" / d).iterdir()]
        places = [path for path in places if path != meeting_place(slurm, name, person)]
        result += [str(path) for path in places if path.lstat().st_uid == person.uid]
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    return result + [str(path) for path in loops if str(mpi.directory) in images.read(path)]


def meeting_place(slurm: Cluster, node: str, person: images.Person) -> Path:
    """Where a user's launches on a node find each other. It stays, for the next ones."""
    return Path(f"/proc/{slurm.nodes[node].pid}/root/tmp/singrun-{person.uid}")


def launch(mpi: MpiBench, image: Path) -> str:
    return f"{mpi.launcher} exec {image}"


def submitted(person: images.Person, *words: str) -> str:
    """Submit a batch job; its id."""
    done = person.call("sbatch", "--parsable", "--output=/dev/null", *words)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def step(mpi: MpiBench, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return mpi.user.call("srun", "-Q", *words)


def test_a_container_has_its_steps_cgroup_limits_and_processors(mpi: MpiBench, small: Path) -> None:
    launch = f"{mpi.launcher} exec {small} sh -c '{_SETTINGS.replace(chr(39), chr(34))}'"
    script = f"ulimit -n 321; {{ {_SETTINGS} }}; echo ---; {launch}"
    done = step(mpi, "-n1", "-c1", "--mem=150", "--cpu-bind=cores", "sh", "-c", script)
    bare, inside = done.stdout.decode().split("---\n")
    assert "321" in bare
    assert bare == inside
    if HAVE_CGROUPS:
        assert re.search(r"memory:/slurm_n./uid_\d+/job_\d+/step_0/task_0", inside)
        assert re.search(r"Cpus_allowed_list:\t\d\n", inside)


def test_accounting_sees_what_a_container_uses(mpi: MpiBench, slurm: Cluster) -> None:
    """sstat reads what the node gathers of the step's processes, ours among them."""
    use = "import time; kept = b'x' * 90000000; time.sleep(5)"
    wrapped = f'srun -n1 {launch(mpi, mpi.image)} python3 -c "{use}"'
    job = submitted(mpi.user, "-n1", "--mem=400", f"--wrap={wrapped}")
    ask = ("sstat", "-n", "-P", "-o", "MaxRSS", "-j", f"{job}.0")

    def megabytes() -> float:
        output = slurm.ask(*ask).splitlines()
        return float(output[0].rstrip("K")) / 1024 if output and output[0].endswith("K") else 0

    wait_until(lambda: megabytes() > 90, 20)
    slurm.ask("scancel", job)


@pytest.mark.skipif(not HAVE_CGROUPS, reason="needs cgroups of version 1")
def test_too_much_memory_ends_the_step(mpi: MpiBench) -> None:
    use = "x = b'x' * 500_000_000"
    done = step(mpi, "-n1", "--mem=100", mpi.launcher, "exec", mpi.image, "python3", "-c", use)
    assert done.returncode != 0
    assert b"Out Of Memory" in done.stderr or b"oom-kill" in done.stderr


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -TERM $$", 143)])
def test_exit_codes_and_signals_reach_slurm(
    mpi: MpiBench, small: Path, slurm: Cluster, script: str, status: int
) -> None:
    done = step(mpi, "-n1", mpi.launcher, "exec", small, "sh", "-c", script)
    assert done.returncode == status, done


def test_signals_of_slurm_reach_the_program(mpi: MpiBench, small: Path, slurm: Cluster) -> None:
    script = "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.1; done"
    words = mpi.user.words(
        "srun", "-Q", "-u", "-n1", mpi.launcher, "exec", small, "sh", "-c", script
    )
    srun = subprocess.Popen(words, env=mpi.user.environment(), cwd="/", stdout=subprocess.PIPE)
    assert srun.stdout
    assert srun.stdout.readline() == b"ready\n"
    job = slurm.ask("squeue", "-h", "-u", mpi.user.name, "-o", "%i", "-S", "-i").splitlines()[0]
    slurm.ask("scancel", "--signal=USR1", f"{job}.0")
    assert srun.communicate()[0] == b"got it\n"
    assert srun.returncode == 3


def test_cancelling_ends_everything(mpi: MpiBench, small: Path, slurm: Cluster) -> None:
    inner = "trap '' TERM; sleep 500 & sleep 500"
    wrapped = f'srun -n2 -N2 {launch(mpi, small)} sh -c "{inner}"'
    job = submitted(mpi.user, "-N2", "-n2", f"--wrap={wrapped}")
    wait_until(lambda: sleepers(mpi, 500) == 4, 30)
    mpi.user.call("scancel", job)


def sleepers(mpi: MpiBench, seconds: int) -> int:
    ps = ["ps", "-u", mpi.user.name, "-o", "args="]
    lines = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.splitlines()
    return sum(line == f"sleep {seconds}" for line in lines)


def test_a_shell_on_a_terminal(mpi: MpiBench, small: Path) -> None:
    srun = images.Person(mpi.user.name, Path("/usr/bin/srun"))
    srun.variables = mpi.user.variables
    words = ("-Q", "-n1", "--pty", str(mpi.launcher), "shell", str(small))
    terminal = terminal_of(srun, *words)
    terminal.expect("Singularity.small.img> ")
    terminal.type("tty; stty size; echo on $SLURMD_NODENAME\r")
    assert terminal.expect(r"/dev/pts/\d+")
    assert terminal.expect(r"on n[12]")
    terminal.type("sleep 600\r")
    wait_until(lambda: sleepers(mpi, 600) == 1, 10)
    terminal.type("\x03")
    terminal.type("exit 4\r")
    assert terminal.status() == 4


def test_an_array_of_short_containers(mpi: MpiBench, small: Path, slurm: Cluster) -> None:
    results = mpi.directory / "array"
    results.mkdir()
    results.chmod(0o777)
    script = f"echo $SLURM_ARRAY_TASK_ID >{results}/$SLURM_ARRAY_TASK_ID"
    wrapped = f"{launch(mpi, small)} sh -c '{script}'"
    options = (f"--array=1-{ARRAY}", "--mem=20", "--oversubscribe")
    job = submitted(mpi.user, *options, f"--wrap={wrapped}")
    slurm.wait_for("squeue", "-h", "-j", job, answer="", seconds=300)
    texts = {path.name: path.read_text() for path in results.iterdir()}
    assert texts == {str(n): f"{n}\n" for n in range(1, ARRAY + 1)}


def test_whatever_is_killed_nothing_is_left(
    mpi: MpiBench, small: Path, slurm: Cluster, nothing_left: Callable[[], None]
) -> None:
    chance = random_numbers()
    for number in range(KILLS):
        what = chance.choice(KINDS)
        words = ["-N2", "-n3", "--mpi=pmix", "--mem-per-cpu=50"]
        command = mpi.user.words("srun", "-Q", *words, mpi.launcher, "exec", small, "sleep", "700")
        srun = subprocess.Popen(
            command, env=mpi.user.environment(), cwd="/", stderr=subprocess.DEVNULL
        )
        if chance.random() < 0.7:  # else in the middle of the start
            wait_until(lambda: sleepers(mpi, 700) == 3, 90)
        else:
            time.sleep(chance.random() * 0.4)
        killed(what, mpi, slurm, chance)
        mpi.user.call("scancel", "-u", mpi.user.name)
        srun.kill()
        srun.wait()
        try:
            nothing_left()
        except AssertionError as error:
            pytest.fail(f"kill {number}, of {what}, left:\n{error}")
    done = step(mpi, "-N2", "-n4", "--mem-per-cpu=50", mpi.launcher, "exec", small, "true")
    assert done.returncode == 0, done
    names = [path for node in NODES for path in meeting_place(slurm, node, mpi.user).glob("*/*")]
    assert names == [], "a killed rank's name outlived the next set"


def killed(what: str, mpi: MpiBench, slurm: Cluster, chance: random.Random) -> None:
    """Kill the step by Slurm, a node's slurmd, one rank, the first, or all."""
    if what == "step":
        slurm.ask("scancel", "--signal=KILL", "--full", "--user", mpi.user.name)
        return
    if what == "slurmd":
        name = chance.choice(NODES)
        slurm.daemons[name].kill()
        slurm.daemons[name].wait()
        slurm.start_slurmd(name)
        slurm.wait_for("sinfo", "-h", "-N", "-r", "-o", "%n", answer="\n".join(NODES))
        return
    pgrep = ["pgrep", "-x", "sleep", "-u", mpi.user.name]
    done = subprocess.run(pgrep, capture_output=True, text=True, check=False)
    pids = done.stdout.split()
    if what == "first rank":
        pids = pids[:1]
    elif what == "rank" and pids:
        pids = [chance.choice(pids)]
    subprocess.run(["kill", "-9", *pids], check=False, capture_output=True)


def test_a_time_limit_ends_everything(
    mpi: MpiBench, slurm: Cluster, overdue: tuple[images.Person, str]
) -> None:
    late, job = overdue
    slurm.wait_for("squeue", "-h", "-j", job, answer="", seconds=200)
    check_nothing_left(mpi, slurm, late)
    completed = (slurm.directory / "completed").read_text()
    assert re.search(rf"JobId={job} .*JobState=TIMEOUT", completed)
