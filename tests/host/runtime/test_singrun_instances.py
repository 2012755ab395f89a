"""Instances: namespaces that are started, entered by name or by image, listed and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench import host
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, wait_until
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root

SLEEP = f"sleep {100_000 + os.getpid()}"  # nobody else's, also among root's processes
WHERE = "readlink /proc/self/ns/mnt; readlink /proc/self/ns/pid; readlink /proc/self/ns/user"


@pytest.fixture(params=["root, loop", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    someone = bench.people[request.param]
    assert listed(someone) == []
    yield someone
    for each in listed(someone):
        os.kill(each["pid"], signal.SIGKILL)
    images.wait_for_daemons(str(bench.directory))


def listed(person: Person) -> list[dict[str, Any]]:
    done = person.call(person.launcher, "instances", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["command"]) == (1, "instances")
    result: list[dict[str, Any]] = answer["instances"]
    return result


def stop(person: Person, *words: str) -> None:
    done = person.call(person.launcher, "stop", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def has_ended(pid: int) -> bool:
    stat = images.read(Path(f"/proc/{pid}/stat"))
    return not stat or stat.rpartition(")")[2].split()[0] == "Z"


def test_one_is_stopped_whatever_its_user_has_left_open(person: Person, bench: Bench) -> None:
    person.output("start", bench.image, "one")
    done = person.call("/usr/bin/python3", "-c", host.LEFT_OPEN, person.launcher, "stop", "one")
    assert (done.returncode, done.stderr) == (0, b"")


def test_one_that_a_test_leaves_is_found_and_ended(person: Person, bench: Bench) -> None:
    before = host.host_state(str(bench.directory))
    person.output("start", bench.image, "left-behind")
    leftovers = host.host_state(str(bench.directory)).new_since(before)
    (pid,) = leftovers.instances
    assert leftovers.instances[pid].endswith("/instance-left-behind")
    leftovers.end()
    wait_until(lambda: has_ended(pid))
    assert not host.host_state(str(bench.directory)).new_since(before).instances


def test_later_commands_enter_it(person: Person, bench: Bench) -> None:
    assert person.output("start", bench.image, "web") == ""
    (instance,) = listed(person)
    assert (instance["name"], instance["image"]) == ("web", str(bench.image))
    table = person.call(person.launcher, "instances").stdout.decode()
    assert table.split()[-1] == str(bench.image)
    ways = [
        person.call(person.launcher, "exec", image, "sh", "-c", WHERE).stdout.split()
        for image in ("instance://web", bench.image)
    ]
    assert ways[0] == ways[1] != []
    alone = person.call(person.launcher, "exec", "--no-join", bench.image, "sh", "-c", WHERE)
    assert not {*alone.stdout.split()} & {*ways[0][:2]}
    shell = person.call(person.launcher, "shell", "instance://web", input=b"id -u\necho $$\n")
    assert shell.stdout.split()[0] == b"%d" % person.uid
    done = person.call(person.launcher, "run", "instance://web", "a", "b")
    assert done.stdout == b"run:<a><b>\n"
    done = person.call(person.launcher, "exec", "instance://web", "sh", "-c", "kill -9 $$")
    assert done.returncode == -signal.SIGKILL
    stop(person, "web")
    assert listed(person) == []
    assert has_ended(instance["pid"])


def test_what_one_leaves_the_next_finds_and_stop_ends_all(person: Person, bench: Bench) -> None:
    assert person.singrun("start", "-S", "/notes", bench.image).returncode == 0
    script = f"echo kept > /notes/file; {SLEEP} <&- >&- 2>&- & sleep 0.1"
    assert person.call(person.launcher, "exec", bench.image, "sh", "-c", script).returncode == 0
    done = person.call(person.launcher, "exec", bench.image, "sh", "-c", "cat /notes/file; ps")
    assert done.stdout.startswith(b"kept\n")
    assert SLEEP.encode() in done.stdout
    pids = [int(word) for word in pids_of(SLEEP, person)]
    assert pids
    stop(person, str(bench.image))
    assert all(has_ended(pid) for pid in pids)


def test_all_are_stopped_at_once(person: Person, bench: Bench) -> None:
    for name in ("one", "two"):
        assert person.singrun("start", bench.image, name).returncode == 0
    stop(person, "--all")
    assert listed(person) == []
    stop(person, "--all")  # of none


def test_one_is_stopped_that_shows_nothing_of_the_host(person: Person, bench: Bench) -> None:
    nothing = ("--contain", "--no-mount", "proc,sys,dev,tmp,home,cwd,hostfs,bind-paths")
    person.output("start", *nothing, bench.image, "bare")
    stop(person, "bare")
    assert listed(person) == []


def pids_of(command: str, person: Person) -> list[str]:
    done = subprocess.run(
        ["pgrep", "-u", person.name, "-xf", command], capture_output=True, text=True
    )
    return done.stdout.split()


def test_orphans_are_reaped(person: Person, bench: Bench) -> None:
    assert person.singrun("start", bench.image, "web").returncode == 0
    for _ in range(3):
        person.call(person.launcher, "exec", "instance://web", "sh", "-c", "true & true & :")
    done = person.call(person.launcher, "exec", "instance://web", "ps", "-o", "stat,args")
    assert not [line for line in done.stdout.splitlines() if line.startswith(b"Z")]
    stop(person, "instance://web")


def test_a_killed_holder_leaves_nothing(person: Person, bench: Bench) -> None:
    assert person.singrun("start", bench.image, "web").returncode == 0
    command = person.words(person.launcher, "exec", "instance://web", *SLEEP.split())
    with subprocess.Popen(command, env=person.environment(), cwd="/") as inside:
        wait_until(lambda: bool(pids_of(SLEEP, person)))
        os.kill(listed(person)[0]["pid"], signal.SIGKILL)
        assert inside.wait(10 * PATIENCE) == -signal.SIGKILL
    assert listed(person) == []
    done = person.call(person.launcher, "exec", "instance://web", "true")
    assert done.returncode == 255
    assert b"There is no instance" in done.stderr
    assert person.singrun("start", bench.image, "web").returncode == 0  # the name is free again
    stop(person, "web")


def test_a_start_that_is_cut_short_leaves_nothing(person: Person, bench: Bench) -> None:
    """Or, killed between the last step and its end, a whole instance."""

    def is_whole() -> bool:
        return person.call(person.launcher, "exec", "instance://web", "true").returncode == 0

    for delay in (0.01, 0.03, 0.05, 0.08, 0.12):
        command = person.words(person.launcher, "start", *person.options, bench.image, "web")
        with subprocess.Popen(command, env=person.environment(), cwd="/") as starting:
            time.sleep(delay)
            starting.send_signal(signal.SIGKILL)
        wait_until(lambda: not listed(person) or is_whole())
        if starting.returncode == 0 or listed(person):
            stop(person, "web")
        assert not listed(person)


def test_only_the_starter_enters(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    for one, other in ((root, user), (user, root)):
        assert one.singrun("start", bench.image, "web").returncode == 0
        assert listed(other) == []
        done = other.call(other.launcher, "exec", "instance://web", "true")
        assert done.returncode == 255
        done = other.call(other.launcher, "exec", bench.image, "id", "-u")
        assert done.stdout == b"%d\n" % other.uid  # a launch of its own
        stop(one, "web")
    images.wait_for_daemons(str(bench.directory))


def test_two_instances_of_one_image(person: Person, bench: Bench) -> None:
    for name in ("one", "two"):
        assert person.singrun("start", bench.image, name).returncode == 0
    assert [each["name"] for each in listed(person)] == ["one", "two"]
    done = person.singrun("start", bench.image, "one")
    assert (done.returncode, b"already" in done.stderr) == (255, True)
    stop(person, "one", "two")


def test_a_written_image_is_whole_after_stop(bench: Bench) -> None:
    for person in (bench.people["root, loop"], bench.people["user"]):
        copy = Path(person.home) / f"copy-{os.getpid()}.img"
        assert person.call("cp", bench.image, copy).returncode == 0
        assert person.call(person.launcher, "start", "-w", copy, "writes").returncode == 0
        person.call(person.launcher, "exec", copy, "sh", "-c", "echo new > /etc/new")
        stop(person, "writes")
        subprocess.run(["e2fsck", "-fn", copy], check=True, capture_output=True)
        output = subprocess.check_output(
            ["debugfs", "-R", "cat /etc/new", copy], stderr=subprocess.PIPE
        )
        assert output == b"new\n"
        copy.unlink()


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("start",), 1, "No image"),
        (("start", "IMAGE", "a/b"), 255, "Cannot name"),
        (("start", "IMAGE", "a b"), 255, "Cannot name"),
        (("start", "/no/such.img"), 255, "Cannot open"),
        (("stop",), 1, "No instance"),
        (("stop", "nothing"), 255, "There is no instance"),
        (("stop", "IMAGE"), 255, "There is no instance"),
        (("instances", "--jsno"), 1, "--json"),
        (("exec", "instance://nothing", "true"), 255, "There is no instance"),
    ],
)
def test_errors_have_reasons(bench: Bench, words: tuple[str, ...], status: int, why: str) -> None:
    user = bench.people["user"]
    output = [str(bench.image) if word == "IMAGE" else word for word in words]
    done = user.call(user.launcher, *output)
    assert (done.returncode, why in done.stderr.decode()) == (status, True), done


def test_options_belong_to_start(bench: Bench) -> None:
    user = bench.people["user"]
    assert user.singrun("start", bench.image, "web").returncode == 0
    done = user.call(user.launcher, "exec", "-B", "/etc:/data", "instance://web", "true")
    assert (done.returncode, b"as it is started: --bind" in done.stderr) == (0, True)
    done = user.call(user.launcher, "exec", "-B", "/etc:/data", bench.image, "ls", "/data/passwd")
    assert done.returncode == 0  # a launch of its own
    stop(user, "web")
    images.wait_for_daemons(str(bench.directory))
