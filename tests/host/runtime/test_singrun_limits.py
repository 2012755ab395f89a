"""Limits by cgroups of version 2: where they can be had, and where they are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.namespaces import limits
from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench

pytestmark = pytest.mark.root
TOP = next(
    (
        path
        for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
        if (path / "cgroup.controllers").exists()
    ),
    None,
)
CONTROLLERS = (TOP / "cgroup.controllers").read_text().split() if TOP else []

# Makes one with its first argument's file and value, has a child in it, and removes it.
ONE = """
import os, sys
from singrun.namespaces.limits import Cgroup
name, value = sys.argv[1:]
cgroup = Cgroup({name: value})
child = os.fork()
if not child:
    cgroup.enter()
    own = [line.strip() for line in open("/proc/self/cgroup") if line.startswith("0::")]
    print(own[0], flush=True)
    os._exit(0)
os.waitpid(child, 0)
cgroup.remove()
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"memory": "100M"}, {"memory.max": "104857600"}),
        (
            {"memory": "1gb", "memory-swap": "2G"},
            {"memory.max": "1073741824", "memory.swap.max": "1073741824"},
        ),
        ({"memory": "7", "memory-swap": "-1"}, {"memory.max": "7", "memory.swap.max": "max"}),
        ({"cpus": "1.5"}, {"cpu.max": "150000 100000"}),
        ({"cpu-shares": "1024"}, {"cpu.weight": "39"}),
        ({"cpuset-cpus": "0-1,3"}, {"cpuset.cpus": "0-1,3"}),
        ({"pids-limit": "20"}, {"pids.max": "20"}),
        ({"pids-limit": "-1"}, {"pids.max": "max"}),
        ({"blkio-weight": "1000"}, {"io.weight": "10000"}),
    ],
)
def test_the_files_of_a_cgroup(environment: dict[str, str], expected: dict[str, str]) -> None:
    assert limits.files(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"memory": "much"},
        {"memory": "-5"},
        {"memory-swap": "1G"},
        {"cpus": "0"},
        {"cpus": "nan"},
        {"cpus": "inf"},
        {"cpu-shares": "1"},
        {"cpuset-cpus": "a"},
        {"pids-limit": ""},
        {"blkio-weight": "5"},
    ],
)
def test_limits_that_mean_nothing(environment: dict[str, str]) -> None:
    with pytest.raises(RunError):
        limits.files(environment)


@pytest.mark.skipif("hugetlb" not in CONTROLLERS, reason="needs the controller hugetlb, version 2")
def test_a_program_is_in_a_cgroup_of_its_own_which_is_removed() -> None:
    assert TOP
    cgroup = TOP / f"singrun-left-{os.getpid()}"
    cgroup.mkdir()  # as a killed launch leaves it
    command = [sys.executable, "-c", ONE, "hugetlb.2MB.max", "0"]
    done = subprocess.run(command, cwd=images.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert done.stdout.startswith("0::/singrun-")
    assert not [*TOP.glob("singrun-*")]


@pytest.mark.skipif("hugetlb" not in CONTROLLERS, reason="needs the controller hugetlb, version 2")
def test_a_user_has_one_where_it_is_delegated(bench: Bench) -> None:
    """Below a cgroup of his; he himself is in another one below it."""
    assert TOP
    user = bench.people["user"]
    own = TOP / f"test-{os.getpid()}"
    leaf = own / "leaf"
    try:
        (TOP / "cgroup.subtree_control").write_text("+hugetlb")
        leaf.mkdir(parents=True)
        for path in (
            own,
            own / "cgroup.procs",
            own / "cgroup.subtree_control",
            leaf / "cgroup.procs",
        ):
            os.chown(path, user.uid, user.gid)
        place = f'echo $$ >{leaf}/cgroup.procs; exec "$@"'
        python = [images.PYTHON, "-c", ONE, "hugetlb.2MB.max", "0"]
        words = [os.fsdecode(word) for word in user.words(*python)]
        done = subprocess.run(
            ["sh", "-c", place, "sh", *words],
            env=user.environment() | {"PYTHONPATH": str(bench.launcher.parents[1])},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done
        assert done.stdout.startswith(f"0::/{own.name}/singrun-")
        assert [path.name for path in own.iterdir() if path.is_dir()] == ["leaf"]
    finally:
        leaf.rmdir()
        own.rmdir()


@pytest.mark.skipif("pids" not in CONTROLLERS, reason="needs the controller pids, version 2")
def test_no_more_processes_than_allowed(bench: Bench) -> None:
    root = bench.people["root, loop"]
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"
    done = root.singrun("exec", "--pids-limit", "4", bench.image, "sh", "-c", script)
    assert b"fork" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "controller"),
    [("memory", "1G", "memory"), ("pids-limit", "9", "pids"), ("cpus", "1", "cpu")],
)
def test_limits_are_refused_where_no_cgroup_can_be_had(
    bench: Bench, name: str, value: str, controller: str
) -> None:
    user = bench.people["user"]
    done = user.singrun("exec", f"--{name}", value, bench.tree, "true")
    assert done.returncode == 255, done
    assert b"Cannot limit" in done.stderr
    assert b"delegated" in done.stderr
    assert b"Traceback" not in done.stderr
    done = user.singrun("start", f"--{name}", value, bench.tree, "limited")
    assert (done.returncode, b"Cannot start an instance" in done.stderr) == (255, True)
