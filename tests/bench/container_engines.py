"""Real container engines, each with a storage of its own: Debian's dockerd, Podman, Buildah."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.host import wait_until
from tests.bench.singrun_images import ROOT


@dataclass(frozen=True)
class Tool:
    """A command line with its storage. address: of its socket, for DOCKER_HOST."""

    words: tuple[str, ...]
    address: str = ""

    def __call__(self, *words: str | Path) -> str:
        """Execute; return what it prints."""
        argv = [*self.words, *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runs(self, *words: str, keep: str = "") -> str:
        """Run a container without a network. keep: its name, if it shall stay."""
        end = f"--name={keep}" if keep else "--rm"
        return self("run", end, "--network=none", *limits(), *words)


def limits() -> tuple[str, ...]:
    """Options that keep a container within this machine's limits: engines ask for more."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return f"--ulimit=nofile={files}:{files}", "--ulimit=nproc=1000:1000"


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")


def storage(where: Path) -> tuple[str, ...]:
    return (f"--root={where}/storage", f"--runroot={where}/run", "--storage-driver=vfs")


def _podman(where: Path) -> Tool:
    needs("podman")
    # crun refuses hosts with both versions of cgroups.
    runtime = [f"--runtime={shutil.which('runc')}"] if shutil.which("runc") else []
    words = ("podman", *storage(where), *runtime, "--cgroup-manager=cgroupfs")
    return Tool(words, f"unix://{where}/engine.sock")


@contextmanager
def container_of_this_host() -> Iterator[Callable[..., list[str]]]:
    """An unprivileged container of this host's programs and settings, with its network.

    Call it with options of ``podman run`` for the words that execute others in it.
    """
    needs("tini")
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as name:
        root = Path(name, "root")
        for place in ("usr", "root", "home", "proc", "sys", "dev", "run", "out", "tmp", "var/tmp"):
            (root / place).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (root / link).symlink_to(f"usr/{link}")
        subprocess.run(["cp", "-a", "/etc", root], check=True)
        (root / "tmp").chmod(0o1777)
        (root / "var/tmp").chmod(0o1777)
        places = sorted({"/usr", str(ROOT), sys.prefix})
        shared = [f"--volume={place}:{place}:ro" for place in places]
        settings = [f"--env=PYTHONPATH={ROOT}", "--env=PATH=/usr/sbin:/usr/bin"]
        init = ("--init", f"--init-path={shutil.which('tini')}")
        words = [*_podman(Path(name)).words, "run", "--rm", "--network=host", *init, *limits()]

        def within(*options: str) -> list[str]:
            return [*words, *shared, *settings, *options, "--rootfs", str(root)]

        yield within


@contextmanager
def podman(where: Path) -> Iterator[Tool]:
    """Run Podman's Docker socket. where: a short path, as sockets have it."""
    tool = _podman(where)
    argv = [*tool.words, "system", "service", "--time=0", tool.address]
    with _running(argv, Path(f"{where}/engine.sock")):
        yield tool


@contextmanager
def dockerd(where: Path) -> Iterator[Tool]:
    """Run dockerd, which touches neither bridges nor packet filters. where: as for podman."""
    needs("dockerd")
    address = f"unix://{where}/docker.sock"
    argv = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "-H", address]
    argv += ["--storage-driver=vfs", f"--data-root={where}/data", f"--exec-root={where}/exec"]
    argv += [f"--pidfile={where}/docker.pid"]
    with _running(argv, Path(f"{where}/docker.sock")):
        yield Tool(("docker", "-H", address), address)


def buildah(where: Path) -> Tool:
    needs("buildah")
    return Tool(("buildah", *storage(where)))


@contextmanager
def _running(argv: list[str], place: Path) -> Iterator[None]:
    # In a mount namespace of its own: whatever it mounts goes with it.
    words = ["unshare", "--mount", *argv]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as service:

        def listens() -> bool:
            assert service.poll() is None, f"{argv[0]} ended"
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(place)) == 0

        try:
            wait_until(listens)
            yield
        finally:
            service.terminate()
