"""Launches that are many, interrupted or killed leave nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, random_numbers
from tests.bench.singrun_images import Person
from tests.host.runtime.test_singrun_launch import image, ordinary, person, shared

__all__ = ["image", "ordinary", "person", "shared"]
pytestmark = pytest.mark.root


def test_many_at_once(person: Person, image: Path) -> None:
    words = person.words(person.launcher, "exec", *person.options, image, "echo", "x")
    options = {"stdout": subprocess.PIPE, "env": person.environment(), "cwd": "/"}
    children = [subprocess.Popen(words, **options) for _ in range(24)]  # type: ignore[call-overload]
    assert [child.communicate(timeout=60 * PATIENCE)[0] for child in children] == [b"x\n"] * 24


def test_a_kill_at_any_moment_leaves_nothing(person: Person, image: Path) -> None:
    killed_at_any_moment(person, image, 10)


def killed_at_any_moment(person: Person, image: Path, count: int) -> None:
    words = person.words(person.launcher, "exec", *person.options, image, "sleep", "60")
    for step in range(count):
        child = subprocess.Popen(
            words, env=person.environment(), cwd="/", stderr=subprocess.DEVNULL
        )
        time.sleep(step * 0.06 / count)
        child.kill()
        child.wait()
    images.wait_for_daemons(image)
    assert str(image) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("options", [["-p"], ["-C"]])
def test_a_launch_that_is_told_to_end_again_and_again_says_nothing(
    ordinary: Person, image: Path, options: list[str]
) -> None:
    """As timeout(1) does: to the process, then to its group."""
    words = ordinary.words(ordinary.launcher, "exec", *options, image, "cat")
    for _ in range(12):
        with subprocess.Popen(
            words,
            env=ordinary.environment(),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stdin
            assert child.stdout
            child.stdin.write(b"x\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"x\n"
            while child.poll() is None:
                child.terminate()
            assert child.stderr
            assert (child.stderr.read(), child.returncode) == (b"", -signal.SIGTERM)


@pytest.mark.parametrize("options", [[], ["-p"], ["-C"]])
def test_a_caller_who_ignores_ends_of_children_learns_the_status(
    ordinary: Person, image: Path, options: list[str]
) -> None:
    """The kernel would reap by itself, and nobody could ask how a child ended: wait(2), NOTES."""
    command: list[str | Path] = [*options, image, "sh", "-c", "exit 5"]
    done = ordinary.call("env", "--ignore-signal=CHLD", ordinary.launcher, "exec", *command)
    assert (done.returncode, done.stderr) == (5, b"")


def test_interruption_while_starting_leaves_nothing(ordinary: Person, image: Path) -> None:
    interrupted_while_starting(ordinary, image, 7)


def interrupted_while_starting(person: Person, image: Path, count: int) -> None:
    words = person.words(person.launcher, "exec", image, "sleep", "60")
    for step in range(count):
        child = subprocess.Popen(
            words,
            env=person.environment(),
            cwd="/",
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        time.sleep(0.005 + step * 0.03 / count)
        for _ in range(10):  # the interpreter's own start is deaf for some milliseconds
            os.killpg(child.pid, 2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5 * PATIENCE)
                break
        assert child.communicate(timeout=20 * PATIENCE)[1] == b""
        assert child.returncode == -2
    images.wait_for_daemons(image)


@pytest.mark.parametrize("options", [[], ["-p"], ["-w"]])
def test_launches_killed_at_random_moments_leave_nothing(
    person: Person, shared: Path, image: Path, options: list[str]
) -> None:
    killed_at_random_moments(person, shared, image, options, 8 if "-w" in options else 3)


def killed_at_random_moments(
    person: Person, shared: Path, image: Path, options: list[str], rounds: int
) -> None:
    """Start nine at a time, one where it writes; a third of them are let go on."""
    if "unpack" in person.options and "-w" in options:
        pytest.skip("an unpacked copy is not written to")
    copy = shared / "image-killed.img"
    shutil.copy(image, copy)
    os.chown(copy, person.uid, person.gid)
    words = person.words(person.launcher, "exec", *options, *person.options, copy, "sleep", "0.05")
    chance = random_numbers()
    at_once = 1 if "-w" in options else 9
    # An earlier user of the same number may have left files; those are not ours.
    before = leftovers(person, copy)
    killed = 0
    for _ in range(rounds):
        started = [
            subprocess.Popen(words, env=person.environment(), cwd="/", stderr=subprocess.DEVNULL)
            for _ in range(at_once)
        ]
        begun = time.monotonic()
        doomed = started[: max(1, at_once * 2 // 3)]
        for child, moment in zip(doomed, sorted(chance.random() for _ in doomed), strict=True):
            time.sleep(max(0, begun + moment * 0.08 - time.monotonic()))
            child.kill()
        killed += sum(child.wait() == -signal.SIGKILL for child in started)
    images.wait_for_daemons(copy)
    print(f"{rounds * at_once} launches of {person.name} {options}: {killed} killed on the way")
    until = time.monotonic() + 20 * PATIENCE
    while files := leftovers(person, copy) - before:
        assert time.monotonic() < until, files
        time.sleep(0.05)
    if "-w" in options:
        subprocess.run(["e2fsck", "-fy", copy], check=False, capture_output=True)
        done = person.singrun("exec", "-w", copy, "echo", "x")  # which says what it cannot share
        assert (done.returncode, done.stdout) == (0, b"x\n")


def leftovers(person: Person, image: Path) -> set[str]:
    """Mounts, loop devices and processes of ours, and files in the places for temporary ones.

    An ordinary user is the test's own, so whatever is his is ours.
    """
    rows = Path("/proc/self/mounts").read_text().splitlines()
    own = str(image.parent)
    mounts = [row for row in rows if own in row or "/task " in row or "fuse" in row]
    loops = [images.read(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    listing = subprocess.run(
        ["ps", "-eo", "stat=,user:64=,args="], capture_output=True, text=True, check=True
    )
    needles = [str(image), *([person.name] if person.uid else [])]
    alive = [row for row in listing.stdout.splitlines() if row[0] != "Z"]
    ours = [row for row in alive if any(needle in row for needle in needles)]
    loops = [loop for loop in loops if str(image) in loop]
    return {*mounts, *loops, *ours, *files(person)}


def files(person: Person) -> set[str]:
    """Files that a launch may have left; the cache holds whole trees, and nothing else."""
    cache = Path(f"/var/tmp/singrun-{person.uid}")
    result = {str(path) for path in cache.glob("*") if path.suffix in (".new", ".old")}
    for where in ("/tmp", "/var/tmp", "/dev/shm"):
        for entry in os.scandir(where):
            with contextlib.suppress(FileNotFoundError):
                owned = person.uid and entry.stat(follow_symlinks=False).st_uid == person.uid
                if (owned and entry.path != str(cache)) or entry.name.startswith("singrun."):
                    result.add(entry.path)
    return result
