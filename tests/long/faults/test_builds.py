"""Builds that are killed at random moments, run out of disk, read bad sectors, or lose the time.

Whatever happens: the target is the old file or the new one, nothing is left behind once the next
build has run, and that makes the same image. SINGBUILD_TEST_ROUNDS says how many faults each
campaign makes; SINGBUILD_TEST_SEED makes the same ones again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from singrun import syscalls
from singrun.mounts import loop
from tests.bench.builds import SINGBUILD
from tests.bench.host import PATIENCE, random_numbers, wait_until

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.slow("200 of each")]

ROUNDS = int(os.environ.get("SINGBUILD_TEST_ROUNDS", "200"))
RECIPE = """\
Bootstrap: busybox
%setup
    head -c 300000 /dev/zero > "$SINGBUILD_ROOTFS/zeros"
%files
    a.def /opt/recipe
%post
    mkdir -p /opt/many
    for n in $(seq 300); do echo $n > /opt/many/$n; done
    (sleep 1000 &)
%environment
    export A=b
%test
    test "$(cat /opt/many/7)" = 7
"""
CACHED = RECIPE.replace("%setup\n", "%labels\n    A b\n").replace(
    '    head -c 300000 /dev/zero > "$SINGBUILD_ROOTFS/zeros"\n', ""
)
PHASES = ("resolve", "scratch", "bootstrap", "setup", "files", "post", "metadata", "seal", "test",
          "finish")  # fmt: skip
EXPLAINED_STATUSES = (5, 6, 8)  # exit statuses of faults that have a sentence


@dataclass
class Place:
    """Directories of builds: recipe, targets, scratch, cache, logs, each to be put elsewhere."""

    directory: Path
    scratch: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, directory: Path, text: str = RECIPE) -> Place:
        place = cls(directory, directory / "scratch", directory / "cache")
        for each in (place.scratch, place.cache):
            each.mkdir(exist_ok=True)
        (directory / "a.def").write_text(text)
        return place

    def start(self, *words: str) -> subprocess.Popen[str]:
        own = {"SINGBUILD_TMPDIR": self.scratch, "SINGBUILD_CACHEDIR": self.cache}
        env = os.environ | {name: str(path) for name, path in own.items()} | self.env
        env["XDG_STATE_HOME"] = str(self.directory / "state")
        argv = [*SINGBUILD, "build", "--json", *words]
        out = subprocess.PIPE
        return subprocess.Popen(
            argv, cwd=self.directory, env=env, stdout=out, stderr=out, text=True
        )

    def build(self, image: str = "a.img", *words: str) -> tuple[int, str]:
        process = self.start("--force", *words, "a.def", image)
        out, err = process.communicate(timeout=300 * PATIENCE)
        return process.returncode, out + err

    def left(self) -> list[str]:
        """Scratches, part files, half-written stages. A half download stays, to be resumed."""
        result = [*self.scratch.iterdir(), *self.directory.glob(".*.part")]
        result += (self.cache / "stages").glob("*.part")
        return [path.name for path in result]


def processes_of(place: Place) -> list[str]:
    """Processes whose root, directory or arguments are in a place."""
    result = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [str((process / name).readlink()) for name in ("root", "cwd")]
            if any(link.startswith(str(place.directory)) for link in links):
                result.append(process.name)
    return result


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.at(tmp_path)


def reference(place: Place) -> bytes:
    status, output = place.build("reference.img", "--no-cache")
    assert status == 0, output
    return (place.directory / "reference.img").read_bytes()


def old_image(place: Place) -> bytes:
    """Have another image at the target, which builds may replace; return it."""
    (place.directory / "old.def").write_text("Bootstrap: busybox\n")
    argv = [*SINGBUILD, "build", "--no-cache", "--force", "old.def", "a.img"]
    subprocess.run(argv, cwd=place.directory, check=True, capture_output=True)
    return (place.directory / "a.img").read_bytes()


def kill(place: Place, phase: str, numbers: random.Random, *words: str, most: float = 0.4) -> int:
    """Kill a build a random moment after a phase has begun; return its status.

    most: the latest such moment, in seconds.
    """
    with place.start("--force", *words, "a.def", "a.img") as process:
        assert process.stdout
        for line in process.stdout:
            if f'"name": "{phase}"' in line:
                time.sleep(numbers.random() ** 2 * most)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
        assert process.stderr
        messages = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL), messages
    return process.returncode


def test_builds_killed_in_every_phase(place: Place) -> None:
    numbers, counts, expected = random_numbers(), Counter[str](), reference(place)
    old = old_image(place)
    for number in range(ROUNDS):
        phase = PHASES[number % len(PHASES)]
        status = kill(place, phase, numbers, "--no-cache")
        counts[f"{phase}: {'killed' if status else 'was done before'}"] += 1
        image = (place.directory / "a.img").read_bytes()
        assert image in (old, expected), f"half an image, killed in {phase}"
        if number % 10 == 9:
            wait_until(lambda: not processes_of(place))
            # The same target: what a killed build has left beside it, the next build of it sweeps.
            status, output = place.build("a.img", "--no-cache")
            assert status == 0, output
            assert (place.directory / "a.img").read_bytes() == expected
            assert place.left() == []
            (place.directory / "a.img").write_bytes(old)
    print(f"{ROUNDS} builds:", dict(counts))
    assert sum(n for name, n in counts.items() if name.endswith("killed")) > ROUNDS // 4


def test_builders_of_one_cache_killed_at_random(tmp_path: Path) -> None:
    place = Place.at(tmp_path, CACHED)
    numbers, expected, killed = random_numbers(), reference(place), 0
    for number in range(max(1, ROUNDS // 8)):
        # Another %post each time, so that stages are written and not only found.
        (tmp_path / "a.def").write_text(CACHED + f"# {number}\n")
        builders = [place.start("--force", "a.def", f"{each}.img") for each in range(4)]
        for each in builders:
            time.sleep(numbers.random() * 0.3)
            if numbers.random() < 0.75:
                each.send_signal(signal.SIGKILL)
                killed += 1
        for each in builders:
            output = "".join(each.communicate())
            assert each.returncode in (0, -signal.SIGKILL), output
        images = [path.read_bytes() for path in tmp_path.glob("[0-3].img")]
        wait_until(lambda: not processes_of(place))
        status, output = place.build()
        assert status == 0, output
        assert {*images} <= {(tmp_path / "a.img").read_bytes()}
        # Part files of another target are swept by the next build of that.
        assert [name for name in place.left() if not re.match(r"\.[0-3]\.img\.", name)] == []
        for path in tmp_path.glob("[0-3].img"):
            path.unlink()
    (tmp_path / "a.def").write_text(CACHED)
    for target in ("a.img", *(f"{each}.img" for each in range(4))):
        assert place.build(target)[0] == 0
        assert (tmp_path / target).read_bytes() == expected
    assert place.left() == []
    print(f"{killed} builders killed that wrote one cache")


@contextlib.contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of a size, on a loop device of its own."""
    where, file = directory / "disk", directory / "disk.ext4"
    where.mkdir(exist_ok=True)
    with file.open("wb") as image:
        image.truncate(kilobytes << 10)
    quiet = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-N", "4096"]
    subprocess.run([*quiet, file], check=True)
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    device, device_fd = loop.attach(fd, 0, read_only=False)
    syscalls.mount(device, str(where), "ext4", 0, "")
    os.close(device_fd)
    os.close(fd)
    try:
        yield where
    finally:
        syscalls.umount2(str(where), syscalls.MNT_DETACH)
        file.unlink()


def fill(disk: Path) -> None:
    """Take all that a disk has left."""
    with (disk / "filler").open("ab") as filler, contextlib.suppress(OSError):
        for power in range(24, 11, -1):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), 1 << power)


@pytest.mark.parametrize("what", ["scratch", "cache", "target"])
def test_the_disk_is_full(tmp_path: Path, what: str) -> None:
    """Somebody else takes the rest of the disk a random moment after a phase has begun."""
    numbers, counts = random_numbers(), Counter[str]()
    place = Place.at(tmp_path)
    expected = reference(place)
    for number in range(max(1, ROUNDS // 6)):
        phase = PHASES[number % len(PHASES)]
        with small_disk(tmp_path, 1 << 20) as disk:
            full = Place(disk if what == "target" else tmp_path, place.scratch, place.cache)
            full.cache = disk / "cache" if what == "cache" else place.cache
            full.scratch = disk / "scratch" if what == "scratch" else place.scratch
            for each in (full.cache, full.scratch):
                each.mkdir(exist_ok=True)
            full.env = {"XDG_STATE_HOME": str(tmp_path)}
            (full.directory / "a.def").write_text(RECIPE)
            with full.start("--force", "a.def", "a.img") as process:
                assert process.stdout
                lines = []
                for line in process.stdout:
                    lines.append(line)
                    if f'"name": "{phase}"' in line:
                        time.sleep(numbers.random() ** 2 * 0.3)
                        fill(disk)
                assert process.stderr
                output = "".join(lines) + process.stderr.read()
            status = process.returncode
            assert status in (0, 7, *EXPLAINED_STATUSES), (
                output
            )  # 7: a section that writes is told as well
            assert "Traceback" not in output
            if status == 0:
                assert (full.directory / "a.img").read_bytes() == expected
            elif what == "target":
                assert not (disk / "a.img").exists()
            assert full.left() == []
            (disk / "filler").unlink(missing_ok=True)
            again, output = full.build("again.img")
            assert again == 0, output
            assert (full.directory / "again.img").read_bytes() == expected
            counts[f"{phase}: {status}"] += 1
    print(f"{sum(counts.values())} disks of the {what} filled, phase and status:", dict(counts))


def spoil(directory: Path, numbers: random.Random) -> None:
    """Let the end of a small disk be gone: what its files have there cannot be read, EIO."""
    subprocess.run(["sync", "-f", directory / "disk"], check=True)
    files = [path for path in (directory / "disk").rglob("*") if path.is_file()]
    device = directory / "disk.ext4"
    os.truncate(device, numbers.randint(64 << 10, device.stat().st_size))
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@pytest.mark.parametrize("what", ["image", "files", "context"])
def test_a_source_on_a_bad_disk(tmp_path: Path, what: str) -> None:
    numbers, counts = random_numbers(), Counter[int]()
    place = Place.at(tmp_path)
    expected = reference(place)
    text = {
        "image": "Bootstrap: localimage\nFrom: disk/source\n",
        "files": "Bootstrap: busybox\n%files\n    disk/source /opt/\n    disk/more /opt\n",
        "context": "FROM scratch\nCOPY disk/source disk/more /opt/\n",
    }[what]
    name = "Dockerfile" if what == "context" else "a.def"
    (tmp_path / name).write_text(text)
    for _ in range(max(1, ROUNDS // 6)):
        with small_disk(tmp_path, 16 << 10) as disk:
            (disk / "source").write_bytes(expected)
            (disk / "more").mkdir()
            for number in range(50):
                (disk / f"more/{number}").write_bytes(numbers.randbytes(20_000))
            spoil(tmp_path, numbers)
            process = place.start("--no-cache", "--force", name, "b.img")
            output = "".join(process.communicate(timeout=300 * PATIENCE))
            status = process.returncode
            counts[status] += 1
            assert status in (0, 3, *EXPLAINED_STATUSES), output
            assert "Traceback" not in output
            assert place.left() == []
            assert status == 0 or not (tmp_path / "b.img").exists()
            (tmp_path / "b.img").unlink(missing_ok=True)
    print(f"{sum(counts.values())} builds of {what} from a bad disk, by status:", dict(counts))


def test_a_cache_on_a_bad_disk(tmp_path: Path) -> None:
    """What it has lost is made again, or the build says what it cannot do."""
    numbers, counts = random_numbers(), Counter[int]()
    place = Place.at(tmp_path, CACHED)
    expected = reference(place)
    for _ in range(max(1, ROUNDS // 6)):
        with small_disk(tmp_path, 24 << 10) as disk:
            place.cache = disk / "cache"
            status, output = place.build()
            assert status == 0, output
            spoil(tmp_path, numbers)
            (tmp_path / "a.img").unlink()
            status, output = place.build()
            counts[status] += 1
            assert status in (0, *EXPLAINED_STATUSES), output
            assert "Traceback" not in output
            assert status or (tmp_path / "a.img").read_bytes() == expected
            assert [path.name for path in place.scratch.iterdir()] == []
    print(f"{sum(counts.values())} builds with a cache on a bad disk, by status:", dict(counts))


LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.mark.skipif(not LIBFAKETIME.exists(), reason="needs libfaketime")
def test_the_clock_jumps(place: Place) -> None:
    numbers, expected = random_numbers(), reference(place)
    clock = place.directory / "clock"
    place.env = {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    jumps = 0
    for _ in range(max(1, ROUNDS // 10)):
        clock.write_text("+0d")
        with place.start("--force", "--no-cache", "a.def", "a.img") as process:
            while process.poll() is None:
                clock.with_suffix(".new").write_text(f"{numbers.randint(-3000, 3000):+d}d")
                clock.with_suffix(".new").rename(clock)
                jumps += 1
                time.sleep(numbers.random() * 0.2)
            output = "".join(process.communicate())
        assert process.returncode == 0, output
        assert (place.directory / "a.img").read_bytes() == expected
        assert place.left() == []
    print(f"{jumps} jumps of the clock")
