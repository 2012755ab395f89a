"""Ranks that player.c has join the others: as Python does, and Python's whenever unsure."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun.namespaces import job_step, joining
from tests.bench import singrun_images as images
from tests.bench.host import random_numbers, wait_until
from tests.bench.singrun_images import Person, Word
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
Rank = subprocess.Popen[bytes]
SAYS = "readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; umask; echo $RANK; cat"
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}


def started(person: Person, *words: Word, **variables: str) -> Rank:
    """A rank that says where it is, and runs until its standard input ends."""
    command = person.words(person.launcher, "exec", *words, "sh", "-c", SAYS)
    environment = person.environment() | variables
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=person.home, umask=0o027
    )


def where(rank: Rank) -> tuple[bytes, ...]:
    """Its mount and user namespaces, umask and number."""
    assert rank.stdout
    assert rank.stderr
    lines = tuple(rank.stdout.readline() for _ in range(4))
    assert all(lines), rank.stderr.read()
    return lines


def end(*ranks: Rank) -> None:
    for rank in ranks:
        rank.communicate()


def sets(desk: Desk) -> list[Path]:
    """Return the recordings of sets."""
    return [each for each in desk.recordings.glob("set-*") if each.stat().st_size > 99]


def set_names(desk: Desk) -> list[Path]:
    """Return the names of sets, recorded or not yet."""
    return [*desk.recordings.glob("set-*")]


class Job:
    """Ranks of one image that have been recorded; words: between exec and the program."""

    def __init__(self, desk: Desk, *words: Word) -> None:
        self.desk, self.words, self.first = desk, words, started(desk.user, *words)
        where(self.first)

        def is_recorded() -> bool:  # not where a file has only just been changed
            end(self.first)
            self.first = started(desk.user, *words)
            where(self.first)
            assert not desk.user.singrun("exec", *words, "true").returncode
            return bool(sets(desk))

        wait_until(is_recorded, 10)

    @property
    def recording(self) -> Path:
        """The recording of the set."""
        (recording,) = sets(self.desk)
        return recording

    def is_played(self) -> bool:
        """Whether no Python has a part in another rank."""
        return self.desk.is_played("exec", *self.words, "true")

    def place(self, person: Person | None = None) -> tuple[bytes, ...]:
        """Where another rank finds itself."""
        late = started(person or self.desk.user, *self.words)
        try:
            return where(late)[:2]
        finally:
            end(late)


@pytest.fixture(params=["by_script", "by_data", "by_fuse"])
def job(request: pytest.FixtureRequest, desk: Desk) -> Iterator[Job]:
    if request.param == "by_fuse":
        job = Job(desk, "--join", "--mount-with", "fuse2fs", desk.by_data)
    else:
        job = Job(desk, "--join", getattr(desk, request.param))
    yield job
    end(job.first)
    images.wait_for_daemons(desk.user.name)


@pytest.fixture
def data_job(desk: Desk) -> Iterator[Job]:
    job = Job(desk, "--join", desk.by_data)
    yield job
    end(job.first)


def test_ranks_are_played_into_the_set_of_the_first(job: Job) -> None:
    desk = job.desk
    assert job.is_played()
    assert job.place() == job.place(desk.plain)
    more = [started(desk.user, *job.words, RANK=str(number)) for number in range(3)]
    places = [where(rank) for rank in more]
    assert {place[:2] for place in places} == {job.place(desk.plain)}
    assert [place[2:] for place in places] == [(b"0027\n", b"%d\n" % n) for n in range(3)]
    end(*more)


def joined(lines: list[str]) -> list[str]:
    """The calls that change something, from the first namespace that is entered."""
    start = next(n for n, line in enumerate(lines) if line.startswith("setns("))
    calls = changes(["unshare(0)", *lines[start:]])
    return [one for one, before in zip(calls, ["", *calls], strict=False) if one != before]


def test_both_make_the_same_system_calls(job: Job) -> None:
    words = ("exec", *job.words, "true")
    played = joined(job.desk.trace(job.desk.user, *words, calls=CHANGES))
    assert played == joined(job.desk.trace(job.desk.plain, *words, calls=CHANGES))
    assert len([call for call in played if call.startswith("setns(")]) == 3


def test_a_program_sees_the_same_whoever_has_it_join(job: Job) -> None:
    *options, image = job.words
    assert isinstance(image, Path)
    assert job.is_played()
    people = (job.desk.user, job.desk.plain)
    assert len({seen(person, image, *options, umask=0o027) for person in people}) == 1
    for person in people:
        person.variables |= {"ODD": "a\nb=c", "R_LIBS_USER": "/r", "EMPTY": ""}
    assert len({seen(person, image, *options) for person in people}) == 1


def test_each_file_that_python_looks_at_is_a_fact(data_job: Job) -> None:
    desk = data_job.desk
    recorded = set(fields(data_job.recording))
    lines = desk.trace(
        desk.plain, "exec", *data_job.words, "true", calls=(*LOOKS, "setns", "rt_sigaction")
    )
    begin = max(n for n, line in enumerate(lines) if "SIGCHLD, {sa_handler=SIG_DFL" in line)
    last = next(n for n, line in enumerate(lines) if n > begin and line.startswith("setns("))
    paths = {
        match[1]
        for line in lines[begin:last]
        if (match := re.match(r'(?!write|rt_)\w+\((?:[^"]*)"([^"]+)"', line))
    }
    # Where ranks meet, and whom they find: the recording names one.
    needless = re.compile(
        rf"/dev/null|/proc/(self|\d+|sys)\b.*|/|boot|set-\w+|image-[-0-9a-f]+|/tmp/singrun-.*|\.|{desk.place}/without/.*"
    )
    unknown = {path for path in paths if path not in recorded and not needless.fullmatch(path)}
    assert not {p for p in unknown if not any(r.startswith(f"{p}/") for r in recorded)}
    assert {"/etc/passwd", "/etc/resolv.conf", str(desk.by_data)} <= paths


@pytest.mark.parametrize("rank", job_step._RANKS)
def test_ranks_of_a_job_step_are_played_in_its_own_set(desk: Desk, rank: str) -> None:
    variables = {rank: "0"} if rank == "SLURM_STEP_ID" else {rank: "0", "PMIX_NAMESPACE": "a"}
    desk.user.variables |= variables
    job = Job(desk, desk.by_data)
    if rank != "SLURM_STEP_ID":  # which is also the job's
        desk.user.variables[rank] = "1"
    assert job.is_played()
    place = job.place()
    desk.user.variables["PMIX_NAMESPACE"] = "b"
    assert job.place() != place
    desk.user.variables.pop("PMIX_NAMESPACE")
    desk.user.variables.pop(rank)
    assert job.place() != place  # on its own
    desk.user.variables |= variables
    assert job.place() == place
    assert job.is_played()
    end(job.first)


def test_a_rank_that_is_alone_on_its_node_joins_nobody(desk: Desk) -> None:
    desk.user.variables |= SLURM
    job = Job(desk, desk.by_data)
    place = job.place()
    desk.user.variables["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"
    assert job.place() != place
    desk.user.variables |= SLURM
    assert job.place() == place
    end(job.first)


@pytest.mark.parametrize("name", [*joining._JOBS, *job_step._LOCAL_SIZES, "HOME", "NOWHERE"])
def test_another_value_of_what_tells_sets_apart_is_python_s(desk: Desk, name: str) -> None:
    desk.user.variables |= {**SLURM, "PMI_RANK": "0"}
    desk.user.variables |= {"SLURM_JOB_ID": "7"}
    job = Job(desk, desk.by_data)
    assert job.is_played()
    desk.user.variables[name] = "/tmp"
    assert not job.is_played()
    end(job.first)


def test_ranks_at_once_are_one_set_and_wait_for_one_recording(data_job: Job) -> None:
    desk = data_job.desk
    end(data_job.first)
    for _ in range(3):
        ranks = [started(desk.user, *data_job.words, RANK=str(n)) for n in range(24)]
        places = [where(rank) for rank in ranks]
        assert len({place[:2] for place in places}) == 1
        assert [place[3] for place in places] == [b"%d\n" % number for number in range(24)]
        assert data_job.is_played()
        end(*ranks)
        assert [rank.returncode for rank in ranks] == [0] * 24


def test_the_lock_and_the_set_are_no_descriptors_of_the_program(data_job: Job) -> None:
    desk = data_job.desk
    script = "for fd in /proc/self/fd/*; do readlink $fd || :; done"
    end(data_job.first)
    desk.user.output("exec", *data_job.words, "true")  # its set has ended with it
    texts = [
        person.output("exec", *data_job.words, "sh", "-c", script)
        for person in (desk.user, desk.plain)
    ]
    clean = [re.sub(r"pipe:\[\d+\]|/proc/\d+", "", text) for text in texts]
    assert clean[0] == clean[1]
    assert "set-" not in texts[0]


def test_when_the_first_has_ended_another_is_joined_and_recorded(data_job: Job) -> None:
    """Like the first, which has a lock, a rank that joins records."""
    desk, before = data_job.desk, data_job.recording.read_bytes()
    second = started(desk.user, *data_job.words)
    place = where(second)[:2]
    end(data_job.first)
    assert data_job.place() == place  # by Python
    assert data_job.recording.read_bytes() != before
    assert data_job.place() == place
    assert data_job.is_played()
    end(second)
    assert data_job.place()


def test_first_ranks_that_are_killed_hold_up_nobody(data_job: Job) -> None:
    first_ranks_killed(data_job, 6)


def first_ranks_killed(job: Job, rounds: int) -> None:
    chance = random_numbers()
    end(job.first)
    for number in range(rounds):
        if number % 2:  # as in another job
            shutil.rmtree(job.desk.recordings)
            job.desk.user.output("exec", *job.words, "true")
        ranks = [started(job.desk.user, *job.words) for _ in range(6)]
        time.sleep(chance.uniform(0, 0.1))
        victim = chance.randrange(2)
        ranks[victim].send_signal(signal.SIGKILL)
        others = [rank for rank in ranks if rank is not ranks[victim]]
        assert len({where(rank)[:2] for rank in others}) == 1
        end(*ranks)
        assert [rank.returncode for rank in others] == [0] * 5
        assert not [name for name in os.listdir(job.desk.recordings) if name.startswith(".set")]


def test_a_stopped_process_with_the_lock_is_not_waited_for_without_end(data_job: Job) -> None:
    desk, recording = data_job.desk, data_job.recording
    place, data = data_job.place(), recording.read_bytes()
    recording.write_bytes(b"")
    words: list[Word] = ["flock", "-x", recording, "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"locked\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        begun = time.monotonic()
        assert data_job.place() == place
        assert time.monotonic() - begun > 4  # seconds, player.c's PATIENCE
        late = started(desk.user, *data_job.words)
        time.sleep(0.3)
        recording.write_bytes(data)  # it comes while this one waits
        holder.stdin.close()
        assert where(late)[:2] == place
        end(late)


def test_a_rank_that_waits_ends_by_ctrl_c(data_job: Job) -> None:
    data_job.recording.write_bytes(b"")
    words: list[Word] = ["flock", "-x", set_names(data_job.desk)[0], "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"locked\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        late = started(data_job.desk.user, *data_job.words)
        time.sleep(0.5)
        late.send_signal(signal.SIGINT)
        assert late.wait(4) == -signal.SIGINT
        end(late)
        holder.stdin.close()


def test_names_of_ranks_are_few_and_push_out_no_other(desk: Desk) -> None:
    plain = desk.recorded(desk.by_data)
    desk.user.variables |= SLURM
    job = Job(desk, desk.by_data)
    end(job.first)
    for number in range(40):
        desk.user.variables["SLURM_JOB_ID"] = str(number)
        job.place()
        assert len([*desk.recordings.glob("[rs]*-*")]) <= 17
    assert plain.exists()
    for name in SLURM:
        desk.user.variables.pop(name)
    assert desk.is_played("exec", desk.by_data, "true")


def test_launches_that_nobody_joins_are_recorded_for_nobody(desk: Desk) -> None:
    for _ in range(4):
        desk.user.output("exec", "--join", desk.by_data, "true")
    assert not [*desk.recordings.glob("[rs]*-*")]


def test_where_fuse_serves_the_image_its_first_rank_alone_records(desk: Desk) -> None:
    job = Job(desk, "--join", "--mount-with", "fuse2fs", desk.by_data)
    second = started(desk.user, *job.words)
    place = where(second)[:2]
    end(job.first)
    for _ in range(2):
        assert not job.is_played()
        assert job.place() == place
    end(second)
    images.wait_for_daemons(desk.user.name)
    job = Job(desk, *job.words)
    assert job.is_played()
    end(job.first)
    images.wait_for_daemons(desk.user.name)


@pytest.mark.parametrize("options", [["-c"], ["--env", "A=b"], ["--ipc"]])
def test_ranks_that_are_not_plain_are_python_s(desk: Desk, options: list[str]) -> None:
    words: list[Word] = ["--join", *options, desk.by_data]
    first = started(desk.user, *words)
    where(first)
    for _ in range(3):
        assert not desk.is_played("exec", *words, "true")
    assert not set_names(desk)
    end(first)
    images.wait_for_daemons(str(desk.place))


def test_root_s_ranks_are_python_s(desk: Desk) -> None:
    root = Person("root", desk.user.launcher)
    first = started(root, "--join", desk.by_data)
    where(first)
    for _ in range(2):
        assert not desk.is_played("exec", "--join", desk.by_data, "true", person=root)
    end(first)
