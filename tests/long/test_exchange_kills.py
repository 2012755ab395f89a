"""Pulls, pushes and conversions killed at any moment: nothing half there, nothing lost."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.bench import docker_images
from tests.bench.builds import SINGBUILD
from tests.bench.docker_registry import genuine, push
from tests.bench.host import wait_until

pytestmark = [pytest.mark.root, pytest.mark.long]
KILLS = int(os.environ.get("SINGBUILD_TEST_INPUTS", "200"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Bench:
    """A registry with a container image and a file, and a directory where all else lies."""

    def __init__(self, place: Path, server: str) -> None:
        self.place, self.server = place, server
        self.environment = os.environ | {
            "HOME": str(place),
            "SINGBUILD_TMPDIR": str(place / "scratch"),
            "SINGBUILD_CACHEDIR": str(place / "cache"),
            "XDG_STATE_HOME": str(place / "state"),
        }
        (place / "scratch").mkdir()
        (place / "targets").mkdir()
        files = [docker_images.file(f"f{n}", random.randbytes(1 << 20)) for n in range(8)]
        busybox = Path(str(shutil.which("busybox"))).read_bytes()
        program = docker_images.file("bin/sh", busybox, mode=0o755)
        push(docker_images.image(docker_images.archive(program, *files)), server, "lab/tool", "1")
        self.run("pull", f"docker://{server}/lab/tool:1", place / "whole.img")
        self.run("push", place / "whole.img", f"oras://{server}/lab/file:1")
        image, target = place / "whole.img", place / "targets/image"
        self.works: dict[str, tuple[object, ...]] = {
            "pull docker": ("pull", "--force", f"docker://{server}/lab/tool:1", target),
            "pull oras": ("pull", "--force", f"oras://{server}/lab/file:1", target),
            "push oras": ("push", image, f"oras://{server}/lab/new-NUMBER:1"),
            "push docker": ("push", image, f"docker://{server}/lab/layers-NUMBER:1"),
            "convert sif": ("convert", "--force", "--format", "sif", image, target),
            "convert squashfs": ("convert", "--force", "--format", "squashfs", image, target),
        }
        self.seconds, self.digests = {}, {}
        for name in self.works:
            began = time.monotonic()
            self.run(*self.words(name, 0))
            self.seconds[name] = time.monotonic() - began
            self.digests[name] = self.digest()

    def words(self, name: str, number: int) -> list[str]:
        return [str(word).replace("NUMBER", str(number)) for word in self.works[name]]

    def begin(self, *words: object) -> subprocess.Popen[bytes]:
        argv = [*SINGBUILD, *map(str, words)]
        output = (self.place / "said").open("wb")
        return subprocess.Popen(argv, env=self.environment, stdout=output, stderr=output)

    def run(self, *words: object) -> None:
        assert self.begin(*words).wait() == 0, (words, (self.place / "said").read_text())

    def digest(self) -> str:
        target = self.place / "targets/image"
        return hashlib.sha256(target.read_bytes()).hexdigest() if target.exists() else ""

    def check_registry(self, name: str, number: int) -> bool:
        """Whether the registry has what was pushed; if so, all of it."""
        repository = name.split("/")[-1].removesuffix(":1")
        base = f"http://{self.server}/v2/lab/{repository}"
        answer = requests.get(f"{base}/manifests/1", headers={"Accept": MANIFEST}, timeout=30)
        if answer.status_code == requests.codes.not_found:
            return False
        for each in (answer.json()["config"], *answer.json()["layers"]):
            blob = requests.get(f"{base}/blobs/{each['digest']}", timeout=30).content
            assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == each["digest"], number
        return True


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    if not shutil.which("tar2sqfs"):
        pytest.skip("needs tar2sqfs")
    (tmp_path / "registry").mkdir()
    (tmp_path / "place").mkdir()
    with genuine(tmp_path / "registry") as server:
        yield Bench(tmp_path / "place", server)


@pytest.mark.timeout(0)
def test_pulls_pushes_and_conversions_are_killed(bench: Bench) -> None:
    outcomes: Counter[str] = Counter()
    names = [*bench.works]
    for number in range(1, KILLS + 1):
        name = names[number % len(names)]
        target = bench.place / "targets/image"
        if number % 4 == 0:
            target.unlink(missing_ok=True)
        if name.startswith("pull") and number % 3 == 0:  # layers and files come anew
            shutil.rmtree(bench.place / "cache/singbuild_docker", ignore_errors=True)
            shutil.rmtree(bench.place / "cache/docker", ignore_errors=True)
        before = bench.digest()
        words = bench.words(name, number)
        process = bench.begin(*words)
        time.sleep(random.uniform(0.1, 1.1) * bench.seconds[name])
        process.kill()
        done = process.wait() == 0
        if name.startswith("push"):
            there = bench.check_registry(words[-1], number)
            assert there or not done
            if not there and number % 5 == 0:  # all are pushed in the end
                bench.run(*words)
                assert bench.check_registry(words[-1], number)
        else:
            now = bench.digest()
            assert now in (before, bench.digests[name]), f"{name}: kill {number}"
            assert now == bench.digests[name] or not done
        outcomes[f"{name}: {'done' if done else 'killed'}"] += 1
        print(f"\r{number}: {dict(sorted(outcomes.items()))}", end="", flush=True)
    for name in names:
        bench.run(*bench.words(name, KILLS + 1))
        if not name.startswith("push"):
            assert bench.digest() == bench.digests[name]

    def is_clean() -> bool:
        leftovers = {path.name for path in bench.place.rglob("*.part")}
        leftovers |= {path.name for path in (bench.place / "scratch").iterdir()}
        leftovers |= {path.name for path in (bench.place / "targets").iterdir()} - {"image"}
        return not leftovers

    wait_until(is_clean)
