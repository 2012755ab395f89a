"""Launches by the dozen while the rest of the host renames files and mounts, by every strategy."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE
from tests.bench.singrun_images import Bench

pytestmark = [pytest.mark.root, pytest.mark.long]
AT_ONCE, ROUNDS = 64, 10
_UNREST = """
import os, sys
sys.path.insert(0, sys.argv[1])
from singrun import syscalls
os.chdir(sys.argv[2])
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
print("begins", flush=True)
while True:
    for _ in range(100):
        os.rename("a", "b")
        os.rename("b", "a")
    syscalls.mount("none", "place", "tmpfs")
    syscalls.umount2("place", 0)
"""


@contextlib.contextmanager
def unrest(directory: Path) -> Iterator[None]:
    """Rename and mount in another process without a pause."""
    (directory / "place").mkdir(parents=True)
    (directory / "a").touch()
    words = [sys.executable, "-c", _UNREST, str(images.ROOT), str(directory)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout
            child.stdout.readline()
            yield
        finally:
            child.kill()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Images with var/tmp -> ../tmp, as in old BioContainers, and var/run -> ../run, as in EL."""
    with images.bench() as result:
        tree = result.variant("dotted")
        (tree / "var/tmp").rmdir()
        (tree / "var/tmp").symlink_to("../tmp")
        (tree / "run").mkdir()
        (tree / "var/run").symlink_to("../run")
        images.ext3(tree, result.directory / "dotted.img")
        squashed = result.directory / "dotted.sqfs"
        subprocess.run(["mksquashfs", tree, squashed, "-quiet", "-no-progress"], check=True)
        munge = result.directory / "munge"
        munge.mkdir()
        conf = result.directory / "singrun.conf"
        conf.write_text(f"bind path = {munge}:/var/run/munge\n")
        for person in result.people.values():
            person.variables |= {"SINGRUN_CONFIG": str(conf)}
        yield result


@pytest.mark.parametrize(
    ("who", "way"),
    [
        ("root, loop", "loop"),
        ("root, loop", "squashfs"),
        ("user", "fuse2fs"),
        ("user", "squashfuse"),
        ("user", "unpack"),
    ],
)
def test_no_launch_of_many_fails(bench: Bench, tmp_path: Path, who: str, way: str) -> None:
    person = bench.people[who]
    name = "dotted.sqfs" if way.startswith("squash") else "dotted.img"
    how = [] if way == "squashfs" else ["--mount-with", way]
    cache = bench.directory / f"cache-{way}"
    cache.mkdir()
    os.chown(cache, person.uid, person.gid)
    environment = person.environment() | {"SINGRUN_CACHEDIR": str(cache)}
    command = person.words(person.launcher, "exec", *how, bench.directory / name, "true")
    pipe = subprocess.PIPE
    failures = []
    with unrest(tmp_path / "unrest"):
        for _ in range(ROUNDS):
            children = [
                subprocess.Popen(command, stderr=pipe, env=environment, cwd="/")
                for _ in range(AT_ONCE)
            ]
            for child in children:
                output = child.communicate(timeout=300 * PATIENCE)[1]
                if child.returncode or output:
                    failures.append((child.returncode, output))
    shutil.rmtree(cache)
    images.wait_for_daemons(str(bench.directory))
    assert failures == []
