"""singrun is killed, or finds the disk full: nothing lost, nothing left, the next command works."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from singrun import syscalls
from tests.bench import docker_images
from tests.bench.host import random_numbers, wait_until
from tests.bench.singrun_images import Bench, Person, Word
from tests.host.images.test_change import everybodys
from tests.long.faults.test_builds import small_disk, spoil

__all__ = ["everybodys"]
pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(0)]
pytestmark += [pytest.mark.slow("200 of each")]

ROUNDS = int(os.environ.get("SINGBUILD_TEST_ROUNDS", "200"))
STARTS = RANKS = max(4, ROUNDS * 3 // 2)
UNPACKS, PULLS, SIZES = max(2, ROUNDS), ROUNDS, max(1, ROUNDS // 3)


@pytest.fixture
def chance() -> random.Random:
    return random_numbers()


@pytest.fixture
def user(bench: Bench) -> Person:
    return bench.people["user"]


@pytest.fixture
def cache(user: Person) -> Iterator[Path]:
    place = Path(user.home) / "faults-cache"
    user.variables["SINGRUN_CACHEDIR"] = str(place)
    yield place
    del user.variables["SINGRUN_CACHEDIR"]
    subprocess.run(["rm", "-rf", place], check=True)


def processes(person: Person) -> list[str]:
    """Those of the person that live, zombies left out."""
    words = ["ps", "-u", person.name, "-o", "stat=,args="]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line[0] != "Z"]


def killed(person: Person, delay: float, *words: Word) -> bool:
    """Start singrun and kill it after a while; whether it was still there."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        person.words(person.launcher, *words),
        env=person.environment(),
        cwd=person.home,
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
    ) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def duration(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_starts_that_are_killed(bench: Bench, user: Person, chance: random.Random) -> None:
    """None is there by half: it answers, or there is none; and its name is free again."""
    usual = 60.0
    for _ in range(4):  # the first one takes longer
        usual = min(usual, duration(lambda: user.output("start", bench.image, "one")))
        assert user.call(user.launcher, "stop", "one").returncode == 0
    stands = hit = 0
    for _ in range(STARTS):
        hit += killed(user, chance.uniform(0, usual * 0.9), "start", bench.image, "one")
        done = user.call(user.launcher, "exec", "instance://one", "echo", "fine")
        if done.returncode == 0:
            stands += 1
            assert done.stdout == b"fine\n"
            assert user.call(user.launcher, "stop", "one").returncode == 0
        else:
            assert b"instance" in done.stderr, done
        wait_until(lambda: not processes(user))
    print(f"{STARTS} starts: {hit} killed on the way, {stands} stood all the same")
    assert user.output("start", bench.image, "one") == ""
    assert user.call(user.launcher, "stop", "one").returncode == 0
    assert list(Path(f"/tmp/singrun-{user.uid}").glob("*/*")) == []
    assert hit > STARTS // 4


def test_ranks_of_which_one_is_killed(bench: Bench, user: Person, chance: random.Random) -> None:
    words = user.words(user.launcher, "exec", "--join", bench.image, "echo", "fine")
    usual = duration(lambda: user.call(*words))
    for _ in range(RANKS // 4):
        ranks = [
            subprocess.Popen(words, stdout=-1, env=user.environment(), cwd=user.home)
            for _ in range(4)
        ]
        time.sleep(chance.uniform(0, usual * 2))
        ranks[0].kill()
        output = [rank.communicate()[0] for rank in ranks]
        assert output[1:] == [b"fine\n"] * 3
        wait_until(lambda: not processes(user))
    print(f"{RANKS} ranks, {RANKS // 4} of them killed")
    assert user.output("exec", "--join", bench.image, "true") == ""
    assert list(Path(f"/tmp/singrun-{user.uid}").glob("*/*")) == []


def test_unpacking_that_is_killed_beside_others(
    bench: Bench, user: Person, cache: Path, chance: random.Random
) -> None:
    """Several processes on one cache: who lives gets the whole tree, and it alone stays."""
    sums = user.output("exec", bench.image, "sha256sum", "/bin/busybox")
    usual = duration(lambda: user.output("warm", bench.image))
    words = ("exec", "--mount-with", "unpack", bench.image, "sha256sum", "/bin/busybox")
    hit = 0
    for _ in range(UNPACKS // 2):
        subprocess.run(["rm", "-rf", cache], check=True)
        other = subprocess.Popen(
            user.words(user.launcher, *words),
            stdout=subprocess.PIPE,
            env=user.environment(),
            cwd=user.home,
            text=True,
        )
        for _ in range(2):
            hit += killed(user, chance.uniform(0, usual), "warm", bench.image)
        assert other.communicate()[0] == sums
        wait_until(lambda: not processes(user))
        assert user.output(*words) == sums
    print(f"{UNPACKS} unpackings beside {UNPACKS // 2} others: {hit} killed on the way")
    entries = [path.name for path in cache.iterdir()]
    assert len(entries) == 1, entries
    assert hit > UNPACKS // 4


def test_disks_that_are_full(
    bench: Bench, user: Person, cache: Path, chance: random.Random
) -> None:
    """A cache, and an overlay, on file systems of any size up to what is needed."""
    place = Path(user.output("warm", bench.image).strip())
    need = int((place / "size").read_text())
    subprocess.run(["rm", "-rf", cache], check=True)
    full = 0
    for _ in range(SIZES):
        assert user.call("mkdir", "-m", "700", cache).returncode == 0
        size = chance.randrange(16 << 10, need * 2)
        options = f"size={size},mode=0700,uid={user.uid},gid={user.gid}"
        syscalls.mount("tmpfs", str(cache), "tmpfs", 0, options)
        try:
            forced = ("exec", "--mount-with", "unpack", bench.image, "echo", "fine")
            done = user.call(user.launcher, *forced)
            if done.returncode:
                full += 1
                assert b"No space" in done.stderr, done
                assert b"Traceback" not in done.stderr
                assert list(cache.iterdir()) == []
            else:
                assert done.stdout == b"fine\n"
            assert user.call("sh", "-c", f"rm -rf {cache}/*; mkdir {cache}/over").returncode == 0
            script = "dd if=/dev/zero of=/big bs=64k count=10000 2>/dev/null || echo full"
            overlaid_words = ("exec", "-o", cache / "over", bench.image, "sh", "-c", script)
            done = user.call(user.launcher, *overlaid_words)
            assert done.stdout == b"full\n", done
            assert user.call("rm", "-rf", f"{cache}/over").returncode == 0
            wait_until(lambda: not processes(user))
        finally:
            syscalls.umount2(str(cache), syscalls.MNT_DETACH)
            cache.rmdir()
    print(f"{SIZES} sizes up to {need * 2} bytes: {full} were too small")
    assert user.output("exec", "--mount-with", "unpack", bench.image, "echo", "fine") == "fine\n"


def test_pulls_that_are_killed(everybodys: Path, user: Person, chance: random.Random) -> None:
    user = Person(user.name, everybodys / "venv/bin/singrun")
    user.variables["PATH"] = f"{everybodys}/venv/bin:/usr/bin:/bin"
    home = Path(user.home)
    archive = docker_images.archive(
        docker_images.file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        docker_images.symlink("bin/sh", "busybox"),
    )
    docker_images.write_layout(home / "layout", {"latest": docker_images.image(archive)})
    subprocess.run(["chown", "-R", user.name, home / "layout"], check=True)
    words = ("exec", "oci:layout", "/bin/busybox", "echo", "fine")
    usual = duration(lambda: user.call(user.launcher, *words))
    pulled = home / ".cache/singbuild"
    hit = 0
    for _ in range(PULLS):
        assert user.call("rm", "-rf", pulled).returncode == 0
        hit += killed(user, chance.uniform(0, usual), *words)
        wait_until(lambda: not processes(user))
        done = user.call(user.launcher, *words)
        assert (done.returncode, done.stdout) == (0, b"fine\n"), done
        leftovers = [path.name for path in home.rglob("*") if path.name.endswith(".part")]
        assert leftovers == []
    print(f"{PULLS} pulls: {hit} killed on the way")


def test_images_on_a_bad_disk(bench: Bench, user: Person, chance: random.Random) -> None:
    """Programs see EIO, or the launch says what it cannot read; nothing hangs, nothing is left."""
    base = bench.directory / "bad"
    base.mkdir(mode=0o755)
    statuses = Counter[str]()
    words = ("sh", "-c", "cat /bin/busybox /etc/passwd /.singularity.d/*/* >/dev/null")
    for _ in range(SIZES):
        with small_disk(base, 16 << 10) as disk:
            shutil.copy(bench.image, disk / "source")
            base.chmod(0o755)
            spoil(base, chance)
            for person in (bench.people["root, loop"], user):
                for way in ([], ["--mount-with", "unpack"]):
                    done = person.call(person.launcher, "exec", *way, disk / "source", *words)
                    assert b"Traceback" not in done.stderr, done
                    statuses[f"{person.name}{''.join(way[1:])}: {done.returncode}"] += 1
            wait_until(lambda: not processes(user))
    print(f"{SIZES} disks that lost their end, launches by status:", dict(statuses))
    shutil.rmtree(base)
