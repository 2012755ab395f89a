"""What is unpacked of a hostile image is measured to its end, and its bounds are not its own."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.images import unpacker, unpacking
from singrun.images.image import open_image
from tests.bench.host import wait_until
from tests.bench.image_trees import mke2fs

LONGEST = 4095  # bytes of a path, which a program in the tree begins with ./


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[int]:
    """A tree with a file whose path from there is as long as can be; a descriptor of it."""
    (tmp_path / "tree").mkdir()
    top, place = os.open(tmp_path / "tree", os.O_RDONLY), "."
    while LONGEST - len(place) > 256:
        place += "/" + "d" * 199
        os.mkdir(place, dir_fd=top)
    file = os.open(f"{place}/".ljust(LONGEST, "f"), os.O_WRONLY | os.O_CREAT, dir_fd=top)
    os.write(file, bytes(1 << 20))
    os.fchmod(file, 0o6755)
    yield file
    os.close(file)
    os.close(top)
    unpacking.remove(str(tmp_path / "tree"))


def test_paths_as_long_as_can_be_are_measured_too(tmp_path: Path, deep: int) -> None:
    amount = unpacker.measured(str(tmp_path / "tree"))
    assert amount.entries == amount.directories + 1
    assert amount.size >= os.fstat(deep).st_blocks * 512
    unpacker._drop_set_ids(str(tmp_path / "tree"))
    assert os.fstat(deep).st_mode & 0o7777 == 0o755


def test_a_superblock_that_changes_after_the_image_was_opened_is_checked(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    mke2fs(tmp_path / "tree", tmp_path / "image", "-b", "4096")
    image = open_image(str(tmp_path / "image"))
    assert unpacker._bounds(image, 0).size < 1 << 40
    with (tmp_path / "image").open("r+b") as file:
        file.seek(1024 + 24)
        file.write(b"\x07")
    with pytest.raises(RunError, match="damaged"):
        unpacker._bounds(image, 0)
    os.close(image.fd)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a tree, and part of it that a killed removal has left."""
    for name in ("stamp", "stamp.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text("1")
    return tmp_path


def test_what_a_killed_removal_left_keeps_no_tree_from_going(cache: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    assert unpacking.take_away(f"{cache}/stamp", str(cache))
    assert os.listdir(cache) == []
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("name", ["stamp", "stamp.old"])
def test_what_somebody_works_on_stays(cache: Path, name: str) -> None:
    with_lock = os.open(cache / name, os.O_RDONLY)
    fcntl.flock(with_lock, fcntl.LOCK_SH)
    descriptors = os.listdir("/proc/self/fd")
    assert not unpacking.take_away(f"{cache}/stamp", str(cache))
    assert os.listdir("/proc/self/fd") == descriptors
    assert (cache / name / "size").exists()
    assert (cache / "stamp").exists()
    os.close(with_lock)


def _hold(path: str, lock: str) -> int:
    """Start a program while a lock is held, and be killed; return the program's PID."""
    code = (
        "import os, sys; from singrun.images import unpacking\n"
        f"assert unpacking.{lock}(sys.argv[1]) >= 0\n"
        "print(os.posix_spawn('/bin/sleep', ['sleep', '600'], {}), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert process.stdout
    number = int(process.stdout.readline())
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    return number


@pytest.mark.parametrize("lock", ["_locked", "_lock_alone"])
def test_a_program_that_outlives_its_starter_holds_the_lock_on_what_it_works_on(
    tmp_path: Path, lock: str
) -> None:
    """Else the next launch would begin to unpack where the last one's rm(1) still removes."""
    (tmp_path / "stamp.new").mkdir()
    path = f"{tmp_path}/stamp.new"
    program = _hold(path, lock)
    assert unpacking._lock_alone(path) == -1
    os.kill(program, signal.SIGKILL)
    wait_until(lambda: unpacking.take_away(path, str(tmp_path)))


def test_a_program_that_still_writes_keeps_no_tree_from_going(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    tree = os.open(tmp_path / "tree", os.O_RDONLY)
    end = time.monotonic() + 0.3

    def write() -> None:
        with contextlib.suppress(FileNotFoundError):  # the directory is gone
            for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
                os.close(os.open(f"{number}", os.O_CREAT, dir_fd=tree))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    unpacking.remove(f"{tmp_path}/tree")
    for writer in writers:
        writer.join()
    os.close(tree)
    assert os.listdir(tmp_path) == []
