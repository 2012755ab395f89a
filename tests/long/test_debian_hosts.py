"""The runtime on other Debians, by each strategy that they have, with their own Python.

Slow: debootstrap makes each root once (minutes), and the quick tests run once more on each.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench import debian_hosts as hosts
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]
pytestmark += [pytest.mark.slow("four Debians, and all quick tests in two of them")]

PEOPLE = ["root", hosts.USER]
# By host and person, how images are mounted: ext3, squashfs.
BUILDS = ["bookworm", "trixie", "sid"]  # with a Python that the builder supports
_WAYS = {"root": ["loop", "fuse2fs", "unpack"], hosts.USER: ["fuse2fs", "unpack"]}
_SQUASHFS = {"root": ["loop", "squashfuse", "unpack"], hosts.USER: ["squashfuse", "unpack"]}


@dataclass(frozen=True)
class Bench:
    """A host's root, and what is seen at /src there: the checkout, and images."""

    name: str
    root: Path
    source: Path

    def call(
        self, user: str, *words: str, cwd: str = "/", **more: str
    ) -> subprocess.CompletedProcess[str]:
        return hosts.call(self.root, *words, source=self.source, user=user, cwd=cwd, **more)

    def script(self, user: str, text: str) -> str:
        """Run a shell script that must succeed; $run is singrun, and nothing may be said of it."""
        lines = "set -eu; run=/src/checkout/bin/singrun; cp /src/*.img /src/*.sqfs /tmp; cd /tmp\n"
        done = self.call(user, "sh", "-c", lines + text)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    with shared_directory() as directory:
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".demo")
        shutil.copytree(images.ROOT, directory / "checkout", ignore=ignored)
        tree = images.fill(directory / "tree")
        images.ext3(tree, directory / "i.img")
        upper = directory / "upper.img"
        subprocess.run(["truncate", "-s", "16M", upper], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext3", upper], check=True)
        words = ["mksquashfs", str(tree), str(directory / "i.sqfs"), "-quiet", "-no-progress"]
        subprocess.run(words, check=True)
        shutil.rmtree(tree)
        subprocess.run(["chmod", "-R", "a+rwX", directory], check=True)
        yield directory


@pytest.fixture(scope="module", params=["bullseye", "bookworm", "trixie", "sid"])
def bench(request: pytest.FixtureRequest, source: Path) -> Bench:
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap")
    return Bench(request.param, hosts.root(request.param), source)


@pytest.fixture(params=PEOPLE)
def person(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_image_runs_by_every_strategy(bench: Bench, person: str) -> None:
    for image, ways in (("i.img", _WAYS[person]), ("i.sqfs", _SQUASHFS[person])):
        for way in ways:
            script = f"$run exec --mount-with {way} {image} sh -c 'id -un; echo $FROM_IMAGE'"
            assert bench.script(person, script) == f"{person}\nyes it is\n", way


def test_what_the_doctor_says_is_so(bench: Bench, person: str) -> None:
    output = bench.script(person, "$run doctor")
    assert output.endswith(f"Images are mounted by: {', '.join(_WAYS[person])}\n"), output
    assert "MISSING" not in output


def test_an_image_is_written(bench: Bench, person: str) -> None:
    script = "chmod u+w i.img; $run exec -w --no-home i.img touch /new; $run exec i.img ls /new"
    assert bench.script(person, script) == "/new\n"


def test_overlays_of_every_kind(bench: Bench, person: str) -> None:
    lines = "$run exec --overlay {0} {1} touch /new; $run exec --overlay {0} {1} ls /new\n"
    for image in ("i.img", "i.sqfs"):
        text = "mkdir d; chmod u+w upper.img\n" + lines.format("d", image)
        text += lines.format("upper.img", image)
        text += f"$run exec --writable-tmpfs {image} sh -c 'touch /new; ls /new'"
        assert bench.script(person, text) == "/new\n" * 3


def test_a_warm_image_is_taken_from_the_cache(bench: Bench, person: str) -> None:
    script = "$run warm i.img; $run exec --debug i.img true 2>&1 | grep -o 'unpack mounts'"
    if person == "root":  # who takes the loop device
        script = "$run warm i.img; $run exec --mount-with unpack i.img echo unpack mounts"
    place, output = bench.script(person, script).splitlines()
    assert (place.startswith("/var/tmp/singrun-"), output) == (True, "unpack mounts")


def test_a_minimal_container(source: Path, person: str) -> None:
    """No FUSE program, no e2fsprogs: root runs by loop, others are told what would help."""
    bench = Bench("minimal", hosts.root("minimal"), source)
    if person == "root":
        assert bench.script(person, "$run exec i.img id -un") == "root\n"
        return
    done = bench.call(person, "/src/checkout/bin/singrun", "exec", "/src/i.img", "true")
    assert done.returncode == 255
    for word in ("fuse2fs is not installed", "debugfs is not installed"):
        assert word in done.stderr


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("target", ["demo", "unit"])
def test_the_commands_of_the_readme(source: Path, name: str, target: str) -> None:
    bench = Bench(name, hosts.root(name), source)
    copy = source / f"{name}-checkout"
    if not copy.exists():
        shutil.copytree(source / "checkout", copy)
    done = bench.call("root", "make", target, cwd=f"/src/{copy.name}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
