"""Launches meet only those of the same user: nobody else can hold up, enter or lure one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, wait_until
from tests.bench.singrun_images import Bench, Person, Word

pytestmark = pytest.mark.root

# Binds a name in the abstract namespace, which every user and every container shares.
HOLD = """
import os, socket, sys, time
held = []
for name in sys.argv[2:]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\\0" + name)
    listener.listen(0)
    held.append(listener)
    while sys.argv[1] == "full":
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        try:
            client.connect("\\0" + name)
        except BlockingIOError:
            break
        held.append(client)
print("held", flush=True)
time.sleep(1000)
"""


BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    with images.ordinary_user("stranger") as name:
        yield name


@pytest.fixture
def person(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Person]:
    yield bench.people["user"]
    images.wait_for_daemons(str(bench.directory))


def place(person: Person) -> Path:
    """Where the launches of this person meet."""
    if person.uid == 0:
        return Path("/run/singrun")
    return Path(f"/tmp/singrun-{person.uid}", BOOT)


def abstract_names(person: Person, image: Path) -> list[str]:
    """What anybody could take, of the names that launches once had."""
    status = image.stat()
    words = (f"image-{status.st_dev:x}-{status.st_ino:x}", "instance-web")
    return [f"singrun-{person.uid}-{word}" for word in words]


@contextlib.contextmanager
def process(words: Sequence[Word], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start one that says a line when it stands; it and its children end with the with-block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, start_new_session=True, **options) as started:
        try:
            yield started
        finally:
            os.killpg(started.pid, signal.SIGKILL)


def stands(started: subprocess.Popen[bytes]) -> bool:
    assert started.stdout
    return started.stdout.readline() == b"held\n"


@pytest.mark.parametrize("who", ["root, loop", "user"])
def test_a_stranger_who_takes_names_holds_up_nobody(bench: Bench, stranger: str, who: str) -> None:
    person, other = bench.people[who], Person(stranger, bench.launcher)
    words = [images.PYTHON, "-c", HOLD, "full", *abstract_names(person, bench.image)]
    with process(other.words(*words)) as holder:
        assert stands(holder)
        began = time.monotonic()
        assert person.output("exec", bench.image, "id", "-u") == f"{person.uid}\n"
        assert person.output("start", bench.image, "web") == ""
        assert person.output("exec", "instance://web", "id", "-u") == f"{person.uid}\n"
        assert person.call(person.launcher, "stop", "web").returncode == 0
        assert time.monotonic() - began < 20 * PATIENCE


def answering(path: Path, name: str, image: Path) -> socket.socket:
    """A listener that says it is an instance of the image, in the words of a real one."""
    status = image.stat()
    state = f"image-{status.st_dev:x}-{status.st_ino:x}"
    state += f"-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    if os.fork() == 0:
        while True:
            connection, _ = listener.accept()
            connection.sendall("\0".join((name, str(image), "", "1", state, "", "")).encode())
            connection.close()
    return listener


def test_what_no_start_has_made_is_not_entered(bench: Bench, tmp_path: Path) -> None:
    """Not even a process of the same user's, with the right words, in a namespace of its own."""
    root = bench.people["root, loop"]
    assert root.output("start", bench.image, "other") == ""
    status = bench.image.stat()
    lure = place(root) / f"image-{status.st_dev:x}-{status.st_ino:x}"
    stopped = root.call(root.launcher, "stop", "other")
    assert (stopped.returncode, stopped.stderr) == (0, b"")
    assert not lure.exists()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import os, pathlib, time\n"
        "from singrun import syscalls\n"
        "syscalls.unshare(syscalls.CLONE_NEWNS)\n"
        "from tests.host.runtime.test_rendezvous import answering\n"
        "answering(*map(pathlib.Path, sys.argv[2:3]), 'web', pathlib.Path(sys.argv[3]))\n"
        "print('held', flush=True); time.sleep(1000)\n"
    )
    words = [sys.executable, "-c", script, str(images.ROOT), str(lure), str(bench.image)]
    with process(words) as lurer:
        assert stands(lurer)
        done = root.singrun("exec", bench.image, "true")
        assert (done.returncode, b"Cannot enter" in done.stderr) == (255, True), done
    assert root.output("exec", bench.image, "echo", "fine") == "fine\n"  # a dead one's name is none


def test_another_image_in_the_place_of_a_started_one_is_a_launch_of_its_own(
    bench: Bench, person: Person
) -> None:
    image = Path(person.home) / "changes.img"
    assert person.call("cp", bench.image, image).returncode == 0
    assert person.output("start", image, "old") == ""
    where = ("readlink", "/proc/self/ns/mnt")
    inside = person.output("exec", "instance://old", *where)
    assert person.output("exec", image, *where) == inside
    os.utime(image, ns=(1, 1))
    assert person.output("exec", image, *where) != inside
    assert person.call(person.launcher, "stop", "old").returncode == 0
    image.unlink()


def test_a_directory_that_is_a_strangers_is_not_used(
    bench: Bench, person: Person, stranger: str
) -> None:
    """Launches go on alone; start takes the home, or says why it cannot."""
    names, other = place(person).parent, Person(stranger, bench.launcher)
    subprocess.run(["rm", "-rf", names], check=True)
    assert other.call("mkdir", "-m", "777", names).returncode == 0
    try:
        assert person.output("exec", bench.image, "echo", "fine") == "fine\n"
        assert person.output("exec", "--join", bench.image, "echo", "fine") == "fine\n"
        homeless = person.environment() | {"HOME": ""}
        done = person.singrun("start", bench.image, "web", env=homeless)
        assert (done.returncode, str(names).encode() in done.stderr) == (255, True), done
        assert person.output("start", bench.image, "web") == ""
        assert person.output("exec", "instance://web", "echo", "fine") == "fine\n"
        assert person.call(person.launcher, "stop", "web").returncode == 0
        assert list(names.iterdir()) == []
        assert [*Path(person.home, ".singrun", BOOT).iterdir()] == []
    finally:
        names.rmdir()


def test_a_link_in_its_place_is_not_followed(bench: Bench, person: Person) -> None:
    names = place(person).parent
    subprocess.run(["rm", "-rf", names], check=True)
    victim = Path(person.home) / "victim"
    assert person.call("mkdir", "-m", "700", victim).returncode == 0
    names.symlink_to(victim)
    try:
        homeless = person.environment() | {"HOME": ""}
        assert person.singrun("start", bench.image, "web", env=homeless).returncode == 255
        assert list(victim.iterdir()) == []
    finally:
        names.unlink()
        victim.rmdir()


def test_who_is_stopped_while_setting_up_holds_the_others_up_for_a_while_only(
    bench: Bench, person: Person
) -> None:
    """A process that holds the name, and does nothing: the launch goes on alone."""
    code = "from singrun.namespaces import joining; joining._PATIENCE = 0.5; "
    code += f"sys.argv = ['singrun', 'exec', '--join', {str(bench.image)!r}, 'echo', 'fine']; "
    code += "from singrun import cli; cli.main()"
    first = person.words(person.launcher, "exec", "--join", bench.image, "sleep", "0")
    stopping = ["strace", "-f", "-o", "/dev/null", "-e", "inject=listen:signal=SIGSTOP", *first]
    with process(stopping, env=person.environment(), cwd=person.home):
        wait_until(lambda: bool([*place(person).glob("set-*")]))
        path = f"import sys; sys.path.insert(0, {str(bench.launcher.parents[1])!r}); "
        done = person.call(images.PYTHON, "-IS", "-c", path + code)
        assert (done.returncode, done.stdout) == (0, b"fine\n"), done
    wait_until(lambda: not images.daemons(str(bench.image)))


def test_sets_and_instances_leave_no_names(bench: Bench) -> None:
    for person in (bench.people["root, loop"], bench.people["user"]):
        assert person.output("exec", "--join", bench.image, "true") == ""
        assert person.output("start", bench.image, "web") == ""
        assert sorted(path.name.split("-")[0] for path in place(person).iterdir()) == [
            "image",
            "instance",
        ]
        assert person.call(person.launcher, "stop", "web").returncode == 0
        assert list(place(person).iterdir()) == []
        status = place(person).stat()
        assert (status.st_uid, status.st_mode & 0o7777) == (person.uid, 0o700)


def test_names_of_another_host_stay(bench: Bench, person: Person) -> None:
    """As dead as they look from here: a /tmp may be shared."""
    other = place(person).parent / "00000000-0000-0000-0000-000000000000"
    assert person.output("exec", "--join", bench.image, "true") == ""
    assert person.call("mkdir", "-m", "700", other).returncode == 0
    bind = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    for name in ("instance-web", f"set-{person.name}-theirs"):
        assert person.call(images.PYTHON, "-c", bind, other / name).returncode == 0
    assert person.output("exec", "--join", bench.image, "true") == ""
    assert b"web" not in person.call(person.launcher, "instances").stdout
    assert person.output("start", bench.image, "web") == ""
    assert person.call(person.launcher, "stop", "web").returncode == 0
    assert len([*other.iterdir()]) == 2
    subprocess.run(["rm", "-r", other], check=True)


def test_the_next_set_removes_the_names_of_dead_ones(bench: Bench) -> None:
    """A rank that was killed while it set up leaves a name that no other job step takes again."""
    user = bench.people["user"]
    assert user.output("exec", "--join", bench.image, "true") == ""
    dead, living = (place(user) / f"set-{user.name}-{each}" for each in ("dead", "living"))
    with socket.socket(socket.AF_UNIX) as ended, socket.socket(socket.AF_UNIX) as listener:
        ended.bind(str(dead))
        listener.bind(str(living))
        listener.listen(16)
        ended.close()
        for path in (dead, living):
            os.chown(path, user.uid, user.gid)
        assert user.output("exec", "--join", bench.image, "true") == ""
        assert (dead.exists(), living.exists()) == (False, True)
    living.unlink()
