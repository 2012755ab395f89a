"""File systems mounted noexec, for the cache of unpacked trees and for directory images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun import syscalls
from singrun.images.image import open_image
from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people["root, loop" if request.param == "root" else "user"]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def noexec(bench: Bench) -> Iterator[Path]:
    """A directory for all that is mounted noexec, as /var/tmp is on hardened hosts."""
    place = bench.directory / "noexec"
    place.mkdir()
    flags = syscalls.MS_NOEXEC | syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("none", str(place), "tmpfs", flags, "mode=1777")
    yield place
    syscalls.umount2(str(place), syscalls.MNT_DETACH)
    place.rmdir()


def test_a_noexec_cache_is_named_and_not_used(bench: Bench, noexec: Path) -> None:
    user, cache = bench.people["user"], noexec / "cache"
    user.variables["SINGRUN_CACHEDIR"] = str(cache)
    try:
        for words in (("warm", bench.image), ("exec", "--mount-with", "unpack", bench.image, "id")):
            done = user.singrun(*words)
            assert done.returncode == 255
            assert f"{noexec} is mounted noexec".encode() in done.stderr, done
            assert b"SINGRUN_CACHEDIR" in done.stderr
        (cache / open_image(str(bench.image)).stamp / "tree").mkdir(parents=True)
        assert user.output("exec", bench.image, "echo", "by fuse2fs") == "by fuse2fs\n"
        output = user.call(user.launcher, "doctor").stdout.decode()
        assert re.search(rf"cache directory: .*{noexec} is mounted noexec", output), output
    finally:
        del user.variables["SINGRUN_CACHEDIR"]


def test_a_directory_image_on_noexec_says_why(person: Person, noexec: Path, bench: Bench) -> None:
    tree = Path(shutil.copytree(bench.tree, noexec / "tree", symlinks=True))
    done = person.singrun("exec", tree, "true")
    assert done.returncode == 255
    assert f"{noexec} is mounted noexec".encode() in done.stderr, done
    shutil.rmtree(tree)
