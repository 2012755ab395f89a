"""Every kind of image in every way that it can be mounted, and the cache of unpacked images."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun.images.image import open_image
from tests.bench import sif_files as sifs
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, random_numbers, shared_directory, wait_until
from tests.bench.sif_files import partition
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench(bench: Bench) -> Bench:
    place = bench.directory
    squashfs = squashed(bench.tree, place / "image.sqfs").read_bytes()
    sifs.written(place / "image.sif", [partition(squashfs, sifs.SQUASHFS, arch=sifs.HOST)])
    ext3 = partition(bench.image.read_bytes(), sifs.EXT3, arch=sifs.HOST)
    sifs.written(place / "ext3.sif", [ext3])
    (place / "image.simg").write_bytes(images.HEADER_2X + squashfs)
    return bench


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people["root, loop" if request.param == "root" else "user"]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def cache(person: Person, bench: Bench) -> Iterator[Path]:
    """An empty cache of the person's own."""
    path = bench.directory / f"cache-{person.name}"
    path.mkdir()
    os.chown(path, person.uid, person.gid)
    person.variables["SINGRUN_CACHEDIR"] = str(path)
    yield path
    del person.variables["SINGRUN_CACHEDIR"]
    shutil.rmtree(path)


def squashed(tree: Path, image: Path) -> Path:
    subprocess.run(["mksquashfs", tree, image, "-quiet", "-no-progress", "-noappend"], check=True)
    return image


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir())


def fresh(bench: Bench, name: str) -> Path:
    path = bench.directory / name
    shutil.copy(bench.image, path)
    return path


@pytest.mark.parametrize(
    "name", ["image.img", "image.sqfs", "tree", "image.sif", "ext3.sif", "image.simg"]
)
@pytest.mark.parametrize("how", ["", "unpack", "fuse"])
def test_every_kind_by_every_way(
    person: Person, bench: Bench, cache: Path, name: str, how: str
) -> None:
    if how == "fuse":
        how = "fuse2fs" if name in ("image.img", "ext3.sif") else "squashfuse"
    options = ["--mount-with", how] if how and name != "tree" else []
    script = "echo $FROM_IMAGE; id -un; : >/bin/new; : >/etc/passwd/x"
    done = person.singrun("exec", *options, bench.directory / name, "sh", "-c", script)
    assert done.stdout.decode() == f"yes it is\n{person.name}\n", done
    assert b"Read-only file system" in done.stderr
    assert len(entries(cache)) == (how == "unpack" and name != "tree")


def test_a_sif_and_an_old_image_are_executed(person: Person, bench: Bench, cache: Path) -> None:
    """By their first line, which names run-singularity."""
    shutil.copy(images.ROOT / "bin/run-singularity", bench.launcher.parent)
    person.variables["PATH"] = f"{bench.launcher.parent}:{os.environ['PATH']}"
    for name in ("image.sif", "image.simg"):
        (bench.directory / name).chmod(0o755)
        done = person.call(f"./{name}", "-a", "b c", cwd=bench.directory)
        assert done.stdout == b"run:<-a><b c>\n", done
    del person.variables["PATH"]


def test_ways_that_do_not_fit_are_refused(person: Person, bench: Bench) -> None:
    for how, name, word in (
        ("squashfuse", "image.img", b"fuse2fs mounts"),
        ("fuse2fs", "image.sqfs", b"squashfuse mounts"),
    ):
        done = person.singrun("exec", "--mount-with", how, bench.directory / name, "true")
        assert (done.returncode, word in done.stderr) == (255, True), done


def test_a_host_with_neither_fuse_nor_debugfs_says_what_would_help(bench: Bench) -> None:
    user = bench.people["user"]
    command = " ".join(map(str, user.words(user.launcher, "exec", bench.image, "true")))
    script = "mount -t tmpfs none /mnt; touch /mnt/f"
    for name in ("fuse2fs", "debugfs"):
        script += f"; mount --bind /mnt/f {shutil.which(name)}"
    environment = {"SINGRUN_CACHEDIR": "/proc/nowhere", "PATH": os.environ["PATH"]}
    unshared = ["unshare", "-m", "sh", "-c", f"{script}; {command}"]
    done = subprocess.run(unshared, check=False, capture_output=True, env=environment)
    assert done.returncode == 255
    assert b"Install the package fuse2fs" in done.stderr
    assert b"Install the package e2fsprogs" in done.stderr


@contextlib.contextmanager
def fuse_for_root_alone() -> Iterator[None]:
    fuse = Path("/dev/fuse")
    mode = fuse.stat().st_mode & 0o777
    fuse.chmod(0o600)
    try:
        yield
    finally:
        fuse.chmod(mode)


def test_without_fuse_a_user_unpacks(bench: Bench, person: Person, cache: Path) -> None:
    with fuse_for_root_alone():
        assert person.output("exec", bench.image, "echo", "x") == "x\n"
    assert len(entries(cache)) == (person.uid != 0)
    if person.uid:
        output = person.singrun("exec", "-d", bench.image, "true").stderr
        assert b"unpack mounts" in output  # what is there already is taken, FUSE or not


def test_without_fuse_a_writer_is_told_of_other_ways(bench: Bench) -> None:
    user = bench.people["user"]
    with shared_directory() as directory, fuse_for_root_alone():
        image = Path(shutil.copy(bench.image, directory / "own.img"))
        os.chown(image, user.uid, -1)
        done = user.singrun("exec", "-w", image, "true")
    assert done.returncode == 255
    assert b"Cannot open /dev/fuse" in done.stderr
    assert b"--overlay DIRECTORY" in done.stderr
    assert b"--writable-tmpfs" in done.stderr


def test_without_fuse_an_image_laid_over_is_read(bench: Bench, person: Person, cache: Path) -> None:
    """Unpacked, and laid over by the kernel."""
    layer = fresh(bench, "layer.img")
    with fuse_for_root_alone():
        assert person.output("exec", "-o", f"{layer}:ro", bench.image, "echo", "x") == "x\n"
    assert len(entries(cache)) == (2 if person.uid else 0)
    images.wait_for_daemons(str(layer))
    layer.unlink()


def test_what_is_unpacked_is_the_image(person: Person, bench: Bench, cache: Path) -> None:
    tree = bench.variant(f"unpack-{person.name}")
    (tree / "etc/closed").mkdir(mode=0o500)
    (tree / "etc/closed/file").write_text("x")
    (tree / "etc/hole").write_bytes(b"")
    os.truncate(tree / "etc/hole", 5 << 20)
    (tree / "etc/odd name\nwith \"quotes' \\ and *").write_text("odd")
    (tree / "etc/link").symlink_to("/etc/nowhere")
    image = images.ext3(tree, bench.directory / f"unpack-{person.name}.img")
    person.output("exec", "--mount-with", "unpack", image, "true")
    (entry,) = entries(cache)
    assert (entry.stat().st_mode & 0o777, entry.stat().st_uid) == (0o700, person.uid)
    listing = ["find", ".", "-not", "-name", "lost+found", "-printf", "%y %m %l %P\\0"]
    result = [
        set(subprocess.run(listing, cwd=where, capture_output=True, check=True).stdout.split(b"\0"))
        for where in (tree, entry / "tree")
    ]
    assert result[0] == result[1]
    assert (entry / "tree/etc/hole").stat().st_size == 5 << 20
    assert (entry / "tree/etc/closed").stat().st_mode & 0o7777 == 0o500
    prune_to_nothing(person, bench)
    assert entry not in entries(cache)  # closed directories go, too


def prune_to_nothing(person: Person, bench: Bench) -> None:
    """Unpack another image into a cache that may hold nothing."""
    other = fresh(bench, f"other-{person.name}-{time.monotonic_ns()}.img")
    person.variables["SINGRUN_CACHESIZE"] = "0"
    try:
        person.output("exec", "--mount-with", "unpack", other, "true")
    finally:
        del person.variables["SINGRUN_CACHESIZE"]


def test_a_changed_image_is_never_mistaken(person: Person, bench: Bench, cache: Path) -> None:
    image = fresh(bench, f"changing-{person.name}.img")
    times = image.stat()
    for text in ("first", "again"):
        word = bench.directory / "word"
        word.write_text(text)
        command = f"rm /etc/word\nwrite {word} /etc/word\n"
        subprocess.run(
            ["debugfs", "-w", "-f", "-", image],
            input=command.encode(),
            check=True,
            capture_output=True,
        )
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
        options = ("--mount-with", "unpack", image)
        assert person.output("exec", *options, "cat", "/etc/word") == text
        assert person.output("exec", *options, "cat", "/etc/word") == text
    assert len(entries(cache)) == 2


def test_many_at_once_unpack_once(person: Person, bench: Bench, cache: Path) -> None:
    image = fresh(bench, f"many-{person.name}.img")
    command = person.words(
        person.launcher, "exec", "--mount-with", "unpack", image, "stat", "-c", "%i", "/bin/busybox"
    )
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, stdout=pipe, env=person.environment(), cwd="/") for _ in range(24)
    ]
    output = {child.communicate(timeout=100 * PATIENCE)[0] for child in children}
    assert len(output) == 1  # one inode: they all see the same tree
    assert output != {b""}
    assert len(entries(cache)) == 1


def test_one_that_comes_late_takes_what_another_unpacked(
    person: Person, bench: Bench, cache: Path
) -> None:
    """Stopped where it has looked for the tree in vain, twice, and not yet begun its own."""
    image = fresh(bench, f"late-{person.name}.img")
    words = ("exec", "--mount-with", "unpack", image, "stat", "-c", "%i", "/bin/busybox")
    place = cache / open_image(str(image)).stamp
    stop = ("-e", "trace=openat", "-e", "inject=openat:signal=SIGSTOP:when=2", "-P", place.name)
    trace = cache / "late.trace"
    with subprocess.Popen(
        person.words("strace", "-f", "-qq", "-o", trace, *stop, person.launcher, *words),
        stdout=subprocess.PIPE,
        env=person.environment(),
        cwd="/",
        text=True,
    ) as late:
        wait_until(lambda: trace.exists() and "stopped by SIGSTOP" in trace.read_text())
        assert not Path(f"{place}.new").exists()
        first = person.output(*words)
        assert place.exists()
        os.kill(int(trace.read_text().split()[0]), signal.SIGCONT)
        assert late.communicate(timeout=100 * PATIENCE)[0] == first
    trace.unlink()
    assert [path.name for path in entries(cache)] == [place.name]


def test_a_killed_unpacking_leaves_nothing_that_counts(
    person: Person, bench: Bench, cache: Path
) -> None:
    image = fresh(bench, f"killed-{person.name}.img")
    command = person.words(
        person.launcher, "exec", "--mount-with", "unpack", image, "echo", "whole"
    )
    settled = image.stat().st_ctime + 1.1
    wait_until(lambda: time.time() > settled)
    for step in range(12):
        child = subprocess.Popen(
            command, env=person.environment(), cwd="/", stdout=subprocess.DEVNULL
        )
        time.sleep(0.02 + 0.005 * step)
        child.kill()
        child.wait()
    assert person.output("exec", "--mount-with", "unpack", image, "echo", "whole") == "whole\n"
    assert [path.name for path in entries(cache) if path.name.endswith((".new", ".old"))] == []


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(
    person: Person, bench: Bench, cache: Path
) -> None:
    if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
        pytest.skip("in a PID namespace of its own singrun prunes nothing")
    paths = [fresh(bench, f"lru-{person.name}-{n}.img") for n in range(4)]
    for path in (*paths[:3], paths[0]):
        person.output("exec", "--mount-with", "unpack", path, "true")
        time.sleep(0.02)
    inode = {path: f"-{path.stat().st_ino:x}-" for path in paths}
    words = person.words(
        person.launcher, "exec", "--mount-with", "unpack", paths[1], "sh", "-c", "echo up; read x"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, env=person.environment(), cwd="/"
    ) as child:
        assert child.stdout
        child.stdout.readline()
        for n in (1, 2, 0):  # 1 was used longest ago, but it is in use
            path = next(each for each in entries(cache) if inode[paths[n]] in each.name)
            os.utime(path, (1000 + n, 1000 + n) if n != 1 else (1, 1))
        each = int((entries(cache)[0] / "size").read_text())
        space = paths[3].stat().st_blocks * 512
        person.variables["SINGRUN_CACHESIZE"] = str(each * 2 + each // 2 + space)
        person.output("exec", "--mount-with", "unpack", paths[3], "true")
        del person.variables["SINGRUN_CACHESIZE"]
        numbers = {n for n in range(4) for e in entries(cache) if inode[paths[n]] in e.name}
        child.communicate(b"\n")
    assert numbers == {1, 2, 3}


def test_a_cache_that_others_could_fill_is_refused(person: Person, bench: Bench) -> None:
    """And left as it is: /tmp is root's own, and keeps its mode."""
    for path in ("/tmp", "/root", "/etc/passwd"):
        if path == "/root" and not person.uid:
            continue
        before = os.stat(path).st_mode
        person.variables["SINGRUN_CACHEDIR"] = path
        done = person.singrun("exec", "--mount-with", "unpack", bench.image, "true")
        del person.variables["SINGRUN_CACHEDIR"]
        assert os.stat(path).st_mode == before
        assert (done.returncode, b"Traceback" in done.stderr) == (255, False)
        assert b"SINGRUN_CACHEDIR" in done.stderr or b"Permission denied" in done.stderr, done


def test_names_that_lead_out_of_the_cache_write_nothing_outside(
    person: Person, bench: Bench, cache: Path
) -> None:
    """debugfs follows them, so it must not be able to."""
    tree = bench.variant(f"escape-{person.name}")
    depth = "@@+@@+@@+@@+@@+@@+"
    (tree / f"{depth}tmp+escaped-by-name").write_text("x")
    image = images.ext3(tree, bench.directory / f"escape-{person.name}.img")
    image.write_bytes(
        image.read_bytes().replace(
            f"{depth}tmp+escaped".encode(),
            depth.replace("@", ".").replace("+", "/").encode() + b"tmp/escaped",
        )
    )
    done = person.singrun("exec", "--mount-with", "unpack", image, "true")
    assert not Path("/tmp/escaped-by-name").exists()
    assert done.returncode == 255
    assert b"Read-only file system" in done.stderr, done
    assert entries(cache) == []


def test_garbage_behind_a_good_superblock_is_refused(
    person: Person, bench: Bench, cache: Path
) -> None:
    data = bytearray(bench.image.read_bytes())
    for offset in range(4096, len(data), 4096):
        data[offset : offset + 4096] = os.urandom(4096)
    image = bench.directory / f"garbage-{person.name}.img"
    image.write_bytes(data)
    done = person.singrun("exec", "--mount-with", "unpack", image, "true")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Traceback" not in done.stderr, done
    assert entries(cache) == []


def test_a_fuzzed_superblock_is_refused_or_harmless(person: Person, bench: Bench) -> None:
    superblock_fuzzed(person, bench, 20)


def superblock_fuzzed(person: Person, bench: Bench, rounds: int) -> None:
    whole = bench.image.read_bytes()
    image = bench.directory / f"fuzzed-{person.name}.img"
    chance = random_numbers(20161122)
    ways = [(), ("--mount-with", "fuse2fs")] if not person.uid else [()]
    for round_ in range(rounds):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8, 40])):
            data[1024 + chance.randrange(0x110)] = chance.choice([0, 1, 0x7F, 0xFF, 64])
        image.write_bytes(data)
        done = person.singrun("exec", *ways[round_ % len(ways)], image, "echo", "fine")
        assert b"Traceback" not in done.stderr, (round_, done)
        if done.returncode == 0:
            assert done.stdout == b"fine\n"
        else:
            assert (done.returncode, done.stdout) == (255, b""), (round_, done)
            assert len(done.stderr.splitlines()) > 1, (round_, done)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(f"/var/tmp/singrun-{person.uid}")


def test_truncated_squashfs(person: Person, bench: Bench) -> None:
    data = (bench.directory / "image.sqfs").read_bytes()
    for name, part in {
        "half": data[: len(data) // 2],
        "head": data[:40],
        "magic": data[:4],
    }.items():
        path = bench.directory / f"{name}.sqfs"
        path.write_bytes(part)
        done = person.singrun("exec", path, "true")
        assert done.returncode == 255, (name, done)
        assert len(done.stderr.splitlines()) > 1, (name, done)


def test_a_warm_image_is_unpacked_before_it_is_run(bench: Bench) -> None:
    user = bench.people["user"]
    image = shutil.copy(bench.image, bench.directory / "cold.img")
    place = Path(user.output("warm", image).strip())
    assert (place / "tree/bin/busybox").exists()
    assert place.stat().st_uid == user.uid
    assert user.output("warm", image).strip() == str(place)
    done = user.singrun("exec", "--debug", image, "true")
    assert b"unpack mounts" in done.stderr
    done = user.singrun("warm", bench.tree)
    assert (done.returncode, b"directory already" in done.stderr) == (255, True)
