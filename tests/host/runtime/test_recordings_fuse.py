"""Launches by a FUSE program that player.c makes again, and those that stay Python's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import random_numbers, wait_until
from tests.bench.singrun_images import Word
from tests.host.runtime.test_recordings import (
    CHANGES,
    LOOKS,
    Desk,
    changes,
    desk,
    fields,
    module_desk,
    pytestmark,
    seen,
)

__all__ = ["desk", "module_desk", "pytestmark"]


class Way:
    """Words before the program that have an image served by a FUSE program."""

    def __init__(self, program: str, image: Path, *options: str) -> None:
        self.program, self.image, self.options = program, image, options
        self.words: list[Word] = ["exec", *options, image]


@pytest.fixture(params=["fuse2fs", "squashfuse_ll"])
def way(request: pytest.FixtureRequest, desk: Desk) -> Iterator[Way]:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    place = desk.place / "by-fuse"  # no tree in the cache is of these
    place.mkdir(exist_ok=True)
    if request.param == "fuse2fs":
        image = place / "data.img"
        if not image.exists():
            subprocess.run(["cp", "--sparse=always", desk.by_data, image], check=True)
        yield Way("fuse2fs", image, "--mount-with", "fuse2fs")
    else:
        image = place / "data.sqfs"
        words: list[str | Path] = ["mksquashfs", desk.place / "tree", image]
        if not image.exists():
            subprocess.run([*words, "-quiet", "-no-progress"], check=True)
        yield Way("squashfuse_ll", image)
    images.wait_for_daemons(desk.user.name)


def recorded(desk: Desk, way: Way, *options: Word) -> Path:
    return desk.recorded(way.image, *way.options, *options)


def is_handed_over(desk: Desk, way: Way) -> bool:
    """Whether the player leaves the launch to its first word: /bin/echo in Python's place."""
    main = f"{desk.user.launcher.parent}/../singrun/__main__.py"
    variables = desk.user.environment() | {"PWD": desk.user.home}  # as dash sets it
    words: list[Word] = [desk.player, "/bin/echo", "HERE", main, *way.words, "true"]
    done = desk.user.call(*words, env=variables)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.startswith(b"-IS -X utf8 -X stat=")


@pytest.mark.parametrize("options", [[], ["-B", "/usr/share:/data:ro"], ["--no-home"]])
def test_a_program_sees_the_same_whoever_launches_it(
    desk: Desk, way: Way, options: list[str]
) -> None:
    recorded(desk, way, *options)
    assert desk.is_played("exec", *way.options, *options, way.image, "true")
    texts = [seen(person, way.image, *way.options, *options) for person in (desk.user, desk.plain)]
    assert texts[0] == texts[1]


def test_both_make_the_same_system_calls(desk: Desk, way: Way) -> None:
    recorded(desk, way)
    words = (*way.words, "true")
    played = changes(desk.trace(desk.user, *words, calls=CHANGES))
    assert played == changes(desk.trace(desk.plain, *words, calls=CHANGES))
    assert len(played) > 30


def test_each_file_of_the_host_that_python_looks_at_is_a_fact(desk: Desk, way: Way) -> None:
    noted = set(fields(recorded(desk, way)))
    calls = (*LOOKS, "unshare", "rt_sigaction", "pivot_root")
    lines = desk.trace(desk.plain, *way.words, "true", calls=calls)
    begin = max(n for n, line in enumerate(lines) if "SIGCHLD, {sa_handler=SIG_DFL" in line)
    last = next(n for n, line in enumerate(lines) if n > begin and line.startswith("pivot_root("))
    ours = (line for line in lines[begin:last] if not line.startswith(("openat2", "rt_")))
    paths = {match[1] for line in ours if (match := re.match(r'\w+\([^"]*"([^"]+)"', line))}
    own = re.escape(str(desk.plain.launcher.parent))
    needless = re.compile(
        rf"/dev/null|/proc/(self|sys|\d+)\b.*|/|setgroups|[ug]id_map|.*/player|{own}/.*"
    )
    unknown = {p for p in paths if p not in noted and not needless.fullmatch(p)}
    assert not {p for p in unknown if not any(each.startswith(f"{p}/") for each in noted)}
    assert {"/dev/fuse", f"/usr/bin/{way.program}", str(way.image)} <= paths


def daemon_of(way: Way) -> int:
    pids: list[int] = []

    def is_there() -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            words = images.read(path).split("\0")
            if words[0].endswith(way.program) and str(way.image) in words:
                pids.append(int(path.parts[2]))
        return bool(pids)

    wait_until(is_there)
    return pids[0]


def test_the_fuse_program_gets_its_files_and_nothing_of_the_caller(desk: Desk, way: Way) -> None:
    recorded(desk, way)
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_inheritable(descriptor, True)
    answers = []
    for person in (desk.user, desk.plain):
        words = person.words(person.launcher, *way.words, "sh", "-c", "echo up; read end")
        pipe = subprocess.PIPE
        options = {"env": person.environment(), "cwd": person.home, "pass_fds": (reading, writing)}
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, **options) as child:  # type: ignore[call-overload]
            assert child.stdout.readline() == b"up\n"
            children = images.read(Path(f"/proc/{child.pid}/task/{child.pid}/children"))
            place = Path(f"/proc/{daemon_of(way)}")
            files = sorted(os.readlink(each) for each in (place / "fd").iterdir())
            status = images.read(place / "status")
            state = re.findall("^(NoNewPrivs|Umask):(.*)", status, re.M)
            ignored = re.findall("^SigIgn:(.*)", status, re.M)[0]
            # Without those that are the C library's own: its posix_spawn ignores them.
            state.append(("SigIgn", hex(int(ignored, 16) & 0x7FFFFFFF)))
            variables = images.read(place / "environ")
            session = images.read(place / "stat").rpartition(")")[2].split()[3]
            answers.append((children, [f for f in files if "pipe" not in f], state, variables))
            assert session != str(os.getsid(0))
            assert not any(os.stat(reading).st_ino == int(f[6:-1]) for f in files if "pipe" in f)
            child.communicate(b"\n")
        images.wait_for_daemons(desk.user.name)
    os.close(reading)
    os.close(writing)
    assert answers[0] == answers[1]
    assert answers[0][0] == ""
    assert str(way.image) in answers[0][1]


def test_what_another_image_or_another_way_would_be_is_python_s(desk: Desk, way: Way) -> None:
    recorded(desk, way)
    assert not is_handed_over(desk, way)
    before = way.image.with_suffix(".before")
    way.image.rename(before)
    assert is_handed_over(desk, way)
    shutil.copy(before, way.image)
    assert is_handed_over(desk, way)
    before.rename(way.image)
    assert is_handed_over(desk, way)  # st_ctime
    recorded(desk, way)
    assert not is_handed_over(desk, way)
    words: list[Word] = ["flock", "-x", way.image, "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(b"locked\n")
        writer.stdin.flush()
        assert writer.stdout.readline()
        assert is_handed_over(desk, way)
        writer.stdin.close()
    if not way.options:  # what is in the cache by now is taken from there
        assert not desk.plain.singrun("warm", way.image).returncode
        assert is_handed_over(desk, way)
        shutil.rmtree(desk.cache)
        assert not is_handed_over(desk, way)
        desk.warm()


def test_another_fuse_program_is_python_s(desk: Desk, way: Way) -> None:
    place = desk.place / "programs"
    place.mkdir()
    for name in ("first", "second"):
        (place / name).mkdir()
    for person in (desk.user, desk.plain):
        person.variables["PATH"] = f"{place}/first:{place}/second:/usr/bin:/bin:/usr/sbin:/sbin"
    real = f"/usr/bin/{way.program}"
    program, flag = place / "second" / way.program, place / "flag"
    images.write_script(program, f'#!/bin/sh\n[ ! -e {flag} ] || exit 1\nexec {real} "$@"\n')
    try:
        recorded(desk, way)
        assert not is_handed_over(desk, way)
        earlier = place / "first" / way.program
        for make in (lambda: shutil.copy(real, earlier), lambda: earlier.symlink_to("nowhere")):
            make()
            assert is_handed_over(desk, way)
            earlier.unlink()
            assert not is_handed_over(desk, way)
        path = desk.user.variables.pop("PATH")
        assert is_handed_over(desk, way)
        desk.user.variables["PATH"] = path
        flag.touch()  # it fails, and nothing could tell before
        done = desk.user.singrun(*map(str, way.words), "true")
        assert done.returncode == 255
        assert f"Cannot start: {program}: It ended with an error.".encode() in done.stderr, done
        flag.unlink()
        assert desk.user.output(*map(str, way.words), "echo", "fine") == "fine\n"
        assert not desk.is_played(*way.words, "true")  # for a day
        recorded(desk, way)
        program.write_text(program.read_text() + "\n")
        assert is_handed_over(desk, way)
        program.unlink()
        assert is_handed_over(desk, way)
    finally:
        shutil.rmtree(place)


def test_a_device_that_is_closed_is_python_s(desk: Desk, way: Way) -> None:
    recorded(desk, way)
    device = Path("/dev/fuse")
    mode = device.stat().st_mode & 0o777
    device.chmod(0o600)
    try:
        assert is_handed_over(desk, way)
    finally:
        device.chmod(mode)
    assert not is_handed_over(desk, way)


def test_a_way_that_was_not_the_first_is_not_recorded(desk: Desk, way: Way) -> None:
    place = desk.place / "refusing"
    place.mkdir()
    images.write_script(place / way.program, "#!/bin/sh\nexit 1\n")
    for person in (desk.user, desk.plain):
        person.variables["PATH"] = f"{place}:/usr/bin:/bin:/usr/sbin:/sbin"
    try:
        for _ in range(4):
            done = desk.user.singrun("exec", way.image, "echo", "fine")
            assert (done.returncode, done.stdout) == (0, b"fine\n"), done
            for each in desk.cache.iterdir():
                shutil.rmtree(each)
        assert not desk.noted()
    finally:
        shutil.rmtree(place)
        desk.warm()


def test_a_caller_who_ignores_the_ends_of_children_is_served(desk: Desk, way: Way) -> None:
    """Then the kernel would reap them itself, and waitpid(2) had nothing to tell."""
    recorded(desk, way)
    own = desk.user.launcher.parent
    words: list[Word] = ["env", "--ignore-signal=CHLD", desk.player, "/bin/false", own]
    words += [f"{own}/../singrun/__main__.py", *way.words, "true"]
    done = desk.user.call(*words, env=desk.user.environment() | {"PWD": desk.user.home})
    assert (done.returncode, done.stderr) == (0, b""), done


def test_killed_at_any_moment_it_leaves_nothing(desk: Desk, way: Way) -> None:
    recorded(desk, way)
    random = random_numbers()
    words = desk.user.words(desk.user.launcher, *way.words, "true")
    for _ in range(30):
        options = {"env": desk.user.environment(), "cwd": desk.user.home}
        child = subprocess.Popen(words, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        time.sleep(random.random() * 0.05)
        child.kill()
        child.wait()
    images.wait_for_daemons(desk.user.name)
    assert str(way.image) not in Path("/proc/self/mounts").read_text()
    assert desk.is_played(*way.words, "true")
