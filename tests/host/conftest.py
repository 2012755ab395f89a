"""Builds in the tests: the real command, its own caches, and a look at what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench import rpm_repository, slurm_cluster
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory

SINGBUILD = (sys.executable, "-m", "singbuild")
Build = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe and return its path."""

    def write(text: str, name: str = "recipe.def") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def singbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Run the real command in ``tmp_path``; its scratch is ``tmp_path/scratch``."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("SINGBUILD_TMPDIR", str(scratch))

    def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        argv = [*SINGBUILD, *map(str, words)]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, **more)

    return run


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    """Check that a build left no target, part file or scratch; mounts are counted elsewhere."""

    def check() -> None:
        left = [str(p.relative_to(tmp_path)) for p in (tmp_path / "scratch").rglob("*")]
        parts = [p.name for p in tmp_path.iterdir() if p.suffix == ".part"]
        assert (left, parts) == ([], [])
        assert not (tmp_path / "a.img").exists()

    return check


class MpiBench:
    """An ordinary user, the image of recipes/mpi.def, and a Slurm."""

    def __init__(self, directory: Path, user: str) -> None:
        self.directory, self.image = directory, directory / "mpi.img"
        self.launcher = images.installed(directory)
        self.user = images.Person(user, self.launcher)
        build = [*SINGBUILD, "-q", "recipes/mpi.def", str(self.image)]
        subprocess.run(build, cwd=images.ROOT, check=True)


@pytest.fixture(scope="session")
def mpi(own_directories: Path) -> Iterator[MpiBench]:
    """Build recipes/mpi.def, once for all tests."""
    with shared_directory() as directory, images.ordinary_user("mpi") as name:
        yield MpiBench(directory, name)


@pytest.fixture(scope="session")
def slurm(mpi: MpiBench) -> Iterator[slurm_cluster.Cluster]:
    """Start a Slurm of two nodes, once for all tests."""
    directory = mpi.directory / "slurm"
    directory.mkdir()
    with slurm_cluster.cluster(directory) as cluster:
        mpi.user.variables |= cluster.variables
        yield cluster


class User:
    """A real ordinary user with a directory of its own that holds scratch, cache and images."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        entry = pwd.getpwnam(name)
        self.directory = directory
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        names = ("SINGBUILD_TMPDIR", "SINGBUILD_CACHEDIR", "XDG_STATE_HOME", "HOME")
        self.env = {"PATH": os.environ["PATH"]} | dict.fromkeys(names, str(directory))
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start singbuild as this user; the recipe "-" comes from standard input."""
        return subprocess.Popen(
            [*SINGBUILD, *words],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self._become(),
        )

    def _become(self) -> dict[str, Any]:
        """What makes a child of root's this user; a user who runs the tests is it already."""
        if os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": [self.gid]}

    def left(self) -> list[str]:
        """What lies in the scratch and beside the target."""
        found = [*self.directory.glob("singbuild-*"), *self.directory.glob(".a.img.*")]
        return [path.name for path in found]


@contextlib.contextmanager
def building_user(name: str) -> Iterator[User]:
    """Give an account a directory, for the time of a with-block; skip where it cannot build."""
    with shared_directory() as directory:
        found = User(name, directory)
        if found.start("--version").wait():
            pytest.skip("an ordinary user cannot read this checkout or its Python")
        yield found


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    """The name of an ordinary user who is there for the tests of one file."""
    with images.ordinary_user() as name:
        yield name


@pytest.fixture
def user(account: str) -> Iterator[User]:
    """An ordinary user who builds."""
    with building_user(account) as found:
        yield found


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A recipe of packages from a repository of ours."""
    if not rpm_repository.have_programs():
        pytest.skip("needs dnf and rpm's tools")
    with rpm_repository.served(rpm_repository.make(tmp_path_factory.mktemp("rpms"))) as mirror:
        head = f"Bootstrap: yum\nOSVersion: 7\nMirrorURL: {mirror}\n"
        yield f"{head}GPGKey: {mirror}/RPM-GPG-KEY-site\nInclude: hello rpm\n"


def killed_in(
    phase: str, number: signal.Signals, words: list[str | Path], cwd: Path, delay: float = 0.2
) -> int:
    """Start a build, send it a signal a little into a phase, return its status."""
    process = subprocess.Popen(
        [*SINGBUILD, "build", "--json", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "phase" and event["name"] == phase:
            time.sleep(delay)
            process.send_signal(number)
            break
    process.stdout.read()
    process.stdout.close()
    return process.wait()
