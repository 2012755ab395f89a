"""Ranks with a recording that are Python's all the same, or that make it anew."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

from singrun.recordings import calls, directory
from tests.bench.singrun_images import Word
from tests.host.runtime.test_recordings import desk, fields, module_desk, pytestmark
from tests.host.runtime.test_recordings_ranks import (
    Job,
    data_job,
    end,
    set_names,
    sets,
    started,
    where,
)
from tests.host.runtime.test_recordings_refused import rewritten

__all__ = ["data_job", "desk", "module_desk", "pytestmark"]


def change_first(at: int, value: str) -> Callable[[list[str]], list[str]]:
    return lambda words: [*words[:at], value, *words[at + 1 :]]


def test_a_forged_recording_leads_nobody_elsewhere(data_job: Job) -> None:
    """It names another process, another set, or was written by another user."""
    desk, recording = data_job.desk, data_job.recording
    place, data = data_job.place(), recording.read_bytes()
    other = started(desk.user, "--join", desk.by_script)
    assert where(other)[:2] != place
    marker = next(word for word in fields(recording) if word.startswith("singrun-set-"))
    pids = [str(other.pid), "1", str(os.getpid()), "self", "0", "999999999", "../self", ""]
    forgeries = [change_first(1, pid) for pid in pids]
    forgeries += [change_first(2, text) for text in ("", "x", marker[:-1], f"{marker}0")]
    forgeries += [lambda words: words[3:], lambda words: [*words[3:6], *words[:3], *words[6:]]]
    for number, forgery in enumerate(forgeries):
        recording.write_bytes(data)
        os.utime(recording, (0, 0))
        rewritten(recording, forgery)
        assert not data_job.is_played(), number
        assert data_job.place() == place, number
        (recording,) = sets(desk)
        assert fields(recording)[2] == marker
    assert data_job.is_played()
    own = (desk.user.uid, desk.user.gid)
    os.chown(recording, 0, 0)
    assert not data_job.is_played()
    assert data_job.place() == place
    recording.unlink(missing_ok=True)
    recording.write_bytes(data)
    os.chown(recording, *own)
    recording.chmod(0o640)
    assert not data_job.is_played()
    end(other)


def test_a_damaged_recording_is_made_anew(data_job: Job) -> None:
    recording = data_job.recording
    place, data = data_job.place(), recording.read_bytes()
    for damaged in (data[:-1], data[:200], data[:300] + b"?" + data[301:], b"x", b""):
        recording.write_bytes(damaged)
        assert data_job.place() == place
        assert data_job.is_played()


def test_a_program_that_unshared_is_not_joined(data_job: Job) -> None:
    """A process with this id and the set's marker in a copy of its mounts, made by a program."""
    desk = data_job.desk
    place = data_job.place()
    inner = ["busybox", "unshare", "-Um", "sh", "-c", "readlink /proc/self/ns/mnt; cat"]
    command = desk.user.words(desk.user.launcher, "exec", *data_job.words, *inner)
    pipe = subprocess.PIPE
    environment = desk.user.environment()
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, cwd=desk.user.home, env=environment
    ) as copy:
        assert copy.stdout
        assert copy.stdout.readline() != place[0]
        rewritten(data_job.recording, change_first(1, str(copy.pid)))
        assert not data_job.is_played()
        assert data_job.place() == place
        copy.communicate()


def test_a_set_that_cannot_be_entered_rests_for_a_day(data_job: Job) -> None:
    recording = data_job.recording

    def spoil(words: list[str]) -> list[str]:
        at = words.index("H")
        return [*words[: at + 1], "/nowhere", *words[at + 2 :]]

    rewritten(recording, spoil)
    done = data_job.desk.user.singrun("exec", *data_job.words, "true")
    assert done.returncode == 255
    assert b"singrun: Cannot start: /nowhere: No such file" in done.stderr
    assert not data_job.is_played()
    assert recording.read_bytes() == directory.FAILED
    for moment in (0, time.time() + 7 * 86400):  # long ago, and before the clock was set back
        recording.write_bytes(directory.FAILED)
        os.utime(recording, (moment, moment))
        assert not data_job.is_played()
        assert data_job.is_played()


def test_the_first_call_that_fails_leaves_the_rank_to_python(data_job: Job) -> None:
    place = data_job.place()

    def spoil(words: list[str]) -> list[str]:
        at = words.index("j")
        return [*words[: at + 1], "9", *words[at + 2 :]]

    rewritten(data_job.recording, spoil)
    assert data_job.place() == place


def test_a_full_disk_or_a_closed_directory_stops_no_rank(data_job: Job) -> None:
    desk, place = data_job.desk, data_job.place()
    full = (
        'link=$(echo "$0"/ranks-*); text=$(readlink "$link"); '
        'mount -t tmpfs -o size=8k,mode=700,uid="$1" none "$0"; ln -s "$text" "$link"; '
        'ln -s "$2" "$0/player"; touch "$0/checked"; dd if=/dev/zero of="$0/fill" 2>/dev/null; '
        'place=$0; shift 2; "$@" && ls -A "$place"'
    )
    read_only = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"; shift 2; exec "$@"'
    words = desk.user.words(desk.user.launcher, "exec", *data_job.words, "readlink")
    for script in (full, read_only):
        done = subprocess.run(
            [
                *("unshare", "-m", "sh", "-c", script, desk.recordings, str(desk.user.uid)),
                *(desk.player, *words, "/proc/self/ns/user"),
            ],
            capture_output=True,
            check=True,
            env=desk.user.environment(),
            cwd=desk.user.home,
        )
        assert done.stderr == b""
        own = done.stdout.splitlines()[0] + b"\n"
        assert own.startswith(b"user:[")
        assert own != place[1]  # of another mount namespace of the host
        assert b".set" not in done.stdout
    assert data_job.place() == place


def test_launches_from_a_directory_that_is_gone_are_python_s(data_job: Job) -> None:
    user, image = data_job.desk.user, data_job.desk.by_data
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    for options in ([], ["--join"]):
        command: list[Word] = ["sh", "-c", script, "sh", user.launcher, "exec"]
        done = user.call(*command, *options, image, "pwd")
        assert (done.returncode, done.stdout) == (0, f"{user.home}\n".encode())
        assert b"it has been removed; starting in" in done.stderr


def test_first_ranks_that_cannot_start_leave_no_names(data_job: Job) -> None:
    desk, image = data_job.desk, data_job.desk.by_data
    end(data_job.first)
    moved = image.rename(image.with_name("moved"))
    for place in ("/", "/tmp", "/usr"):  # each makes another name
        done = desk.user.singrun("exec", *data_job.words, "true", cwd=place)
        assert done.returncode == 255
        assert b"No such file" in done.stderr
    moved.rename(image)
    assert len(set_names(desk)) <= 1  # that of the recording, elsewhere


def test_names_that_killed_ranks_have_left_go_at_once(data_job: Job) -> None:
    desk = data_job.desk
    end(data_job.first)
    for number in range(100):
        (desk.recordings / f"set-{number:016x}").touch()
    desk.user.output("exec", *data_job.words, "true")
    assert len(set_names(desk)) <= 8


def test_where_nothing_can_be_locked_nobody_waits(data_job: Job) -> None:
    user, name = data_job.desk.user, data_job.recording
    end(data_job.first)
    calls: list[Word] = ["-e", "trace=flock", "-e", "inject=flock:error=ENOLCK", "-P", name]
    begun = time.monotonic()
    words: list[Word] = ["strace", "-f", "-o", "/dev/null", *calls, user.launcher, "exec"]
    done = user.call(*words, *data_job.words, "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - begun < 4  # seconds; player.c's PATIENCE is 5


def test_a_descriptor_of_before_the_set_has_no_letter() -> None:
    """The player has none in its place but its standard input."""
    notes = calls.Calls()
    try:
        fds = [os.open("/", os.O_PATH) for _ in range(2)]
        os.close(fds.pop())
        assert notes.is_whole
        notes.forget_descriptors()
        os.close(fds.pop())
    finally:
        notes.stop()
    assert not notes.is_whole
