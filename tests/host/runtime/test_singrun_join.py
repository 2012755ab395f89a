"""Ranks of one job step on one node: one set of namespaces, and nothing left of it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import random_numbers
from tests.bench.singrun_images import Bench, Person, Word

pytestmark = pytest.mark.root

SAYS = "readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; id -u; umask; echo $RANK; cat"
Rank = subprocess.Popen[bytes]


@pytest.fixture(params=["root, loop", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


def started(person: Person, *words: Word, **variables: str) -> Rank:
    """A rank that says where it is, and runs until its standard input ends."""
    command = person.words(person.launcher, "exec", *person.options, *words, "sh", "-c", SAYS)
    pipe = subprocess.PIPE
    environment = person.environment() | variables
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd="/", umask=0o027
    )


def where(rank: Rank) -> tuple[bytes, ...]:
    """Its mount and user namespaces, uid, umask and number."""
    assert rank.stdout
    assert rank.stderr
    output = tuple(rank.stdout.readline() for _ in range(5))
    assert all(output), rank.stderr.read()
    return output


def end(*ranks: Rank) -> None:
    for rank in ranks:
        rank.communicate()


def test_many_at_once_share_one_set(person: Person, bench: Bench) -> None:
    ranks = [started(person, "--join", bench.image, RANK=str(n)) for n in range(64)]
    places = [where(rank) for rank in ranks]
    assert len({place[:2] for place in places}) == 1
    assert {place[2:4] for place in places} == {(b"%d\n" % person.uid, b"0027\n")}
    assert [int(place[4]) for place in places] == [*range(64)]
    assert len(images.daemons(str(bench.image))) <= 1
    # Whichever of them go, and however: the others stay where they are, and more may come.
    for rank in ranks[:32]:
        rank.send_signal(signal.SIGKILL)
    end(*ranks[:32])
    late = started(person, "--join", bench.image)
    assert where(late)[:2] == places[0][:2]
    end(*ranks[32:])
    assert [rank.returncode for rank in ranks[32:]] == [0] * 32
    end(late)
    assert late.returncode == 0


def test_a_set_never_mixes(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    other = images.ext3(bench.tree, bench.directory / "other.img")
    again = bench.directory / "again.img"
    again.hardlink_to(other)
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}
    ranks = [
        started(root, "--join", bench.image),
        started(user, "--join", bench.image),
        started(user, "--join", other),
        started(user, "--join", "--contain", other),
        started(user, "--join", "-B", "/etc:/data", other),
        started(user, "--join", "--env", "A=b", other),
        started(user, "--join", "--ipc", other),
        started(user, other),
        started(user, "--no-join", other, **step),
        started(user, other, **step),
        started(user, other, **step | {"SLURM_STEP_ID": "2"}),
        started(user, other, **step | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}),
    ]
    places = [where(rank)[0] for rank in ranks]
    assert len({*places}) == len(ranks), places
    same = started(user, "--join", again)  # of one file by another name
    assert where(same)[0] == places[2]
    end(*ranks, same)
    images.wait_for_daemons(str(bench.directory))


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x3)"},
        {"PMIX_NAMESPACE": "prte-1@1", "PMIX_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"},
    ],
)
def test_a_job_step_joins_by_itself(bench: Bench, variables: dict[str, str]) -> None:
    user = bench.people["user"]
    ranks = [started(user, bench.image, **variables) for _ in range(3)]
    assert len({where(rank)[:2] for rank in ranks}) == 1
    end(*ranks)
    images.wait_for_daemons(str(bench.directory))


def test_a_first_rank_that_is_killed_holds_up_nobody(person: Person, bench: Bench) -> None:
    first_ranks_killed(person, bench, 4)


def first_ranks_killed(person: Person, bench: Bench, rounds: int) -> None:
    chance = random_numbers()
    for _ in range(rounds):
        ranks = [started(person, "--join", bench.image) for _ in range(4)]
        time.sleep(chance.uniform(0, 0.08))
        ranks[0].send_signal(signal.SIGKILL)
        assert len({where(rank)[:2] for rank in ranks[1:]}) == 1
        end(*ranks)
        assert [rank.returncode for rank in ranks[1:]] == [0] * 3
        images.wait_for_daemons(str(bench.directory))


def test_a_program_keeps_what_is_its_own(person: Person, bench: Bench) -> None:
    first = started(person, "--join", bench.image)
    where(first)
    for words, status in (("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM)):
        done = person.singrun("exec", "--join", bench.image, "sh", "-c", words, cwd="/")
        assert done.returncode == status
    script = "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; ls /proc/self/fd"
    output = person.output("exec", "--join", bench.image, "sh", "-c", script, cwd="/")
    assert output == person.output("exec", bench.image, "sh", "-c", script, cwd="/")
    end(first)


def test_a_copy_of_the_namespaces_is_not_entered(bench: Bench) -> None:
    """A program inside that makes namespaces of its own is no member: they may differ."""
    root = bench.people["root, loop"]
    first = started(root, "--join", bench.image)
    place = where(first)[0]
    inner = ["busybox", "unshare", "-m", "sh", "-c", "readlink /proc/self/ns/mnt; cat"]
    command = root.words(root.launcher, "exec", "--join", bench.image, *inner)
    pipe = subprocess.PIPE
    environment = root.environment()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/", env=environment) as copy:
        assert copy.stdout
        copied = copy.stdout.readline()
        assert copied != place
        late = started(root, "--join", bench.image)
        assert where(late)[0] == place
        end(first, late)
        alone = started(root, "--join", bench.image)
        assert where(alone)[0] != copied
        end(alone)
        copy.communicate()


def test_a_rank_that_is_half_inside_goes_no_further(bench: Bench) -> None:
    """It has namespaces of its own where it cannot enter the first, but there is no way back."""
    user = bench.people["user"]
    first = started(user, "--join", bench.image)
    where(first)
    for number, what in ((1, b""), (2, b"singrun: Cannot join the other ranks\n")):
        failing = ["-e", f"inject=setns:error=EPERM:when={number}"]
        strace = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=setns", *failing]
        words: list[Word] = [*strace, user.launcher, "exec", "--join", bench.image, "true"]
        done = user.call(*words, cwd="/", umask=0o027)
        assert done.stderr.startswith(what), done
        assert done.returncode == (255 if what else 0)
    end(first)
    images.wait_for_daemons(str(bench.directory))


def test_what_cannot_be_shared_is_refused(person: Person, bench: Bench) -> None:
    for option in ("--pid", "--containall", "--writable"):
        done = person.singrun("exec", "--join", option, bench.image, "true")
        assert done.returncode == 255
        assert b"Cannot combine --join" in done.stderr
