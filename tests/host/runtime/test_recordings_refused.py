"""Launches with a recording that are Python's all the same: what it rests on is no longer so."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from singrun.recordings import directory, form
from tests.bench.singrun_images import Person, Word
from tests.host.runtime.test_recordings import Desk, desk, fields, module_desk, pytestmark

__all__ = ["desk", "module_desk", "pytestmark"]


@pytest.fixture
def recording(desk: Desk) -> Path:
    path = desk.recorded(desk.by_data)
    assert desk.is_played("exec", desk.by_data, "true")
    return path


def is_handed_over(desk: Desk, *words: str) -> bool:
    """Whether the player leaves the launch to its first word: /bin/echo in Python's place."""
    person = desk.user
    own: list[Word] = [
        desk.player,
        "/bin/echo",
        "HERE",
        f"{person.launcher.parent}/../singrun/__main__.py",
    ]
    own += ["exec", desk.by_data]
    done = person.call(
        *own, *(words or ("true",)), env=person.environment() | {"PWD": person.home}
    )  # as dash sets it
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.startswith(b"-IS -X utf8 -X stat=")


def test_a_damaged_recording_is_not_played(desk: Desk, recording: Path) -> None:
    data = recording.read_bytes()
    assert not is_handed_over(desk)
    places = [*range(0, len(data), 47), len(data) - 2, len(data) - 1]
    for at in places:
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            recording.write_bytes(damaged)
            assert is_handed_over(desk), at
    recording.write_bytes(data + b"z\0")
    assert is_handed_over(desk)
    recording.write_bytes(data)
    assert not is_handed_over(desk)


def rewritten(recording: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change fields of a recording, whose digits fit again."""
    words = change(fields(recording)[:-1])
    data = "".join(f"{word}\0" for word in words).encode(errors="surrogateescape")
    recording.write_bytes(form.MAGIC + f"{form.hashed(data):016x}".encode() + data)


def test_what_a_player_does_not_know_it_does_not_play(desk: Desk, recording: Path) -> None:
    data = recording.read_bytes()
    changes: list[Callable[[list[str]], list[str]]] = [
        lambda words: ["?", *words],
        lambda words: ["kk", *words],
        lambda words: words[:-2],
        lambda words: [*words, "X"],
        lambda words: words[2:],
        lambda words: ["U", "0", *words],
    ]
    for number, change in enumerate(changes):
        recording.write_bytes(data)
        rewritten(recording, change)
        assert is_handed_over(desk), number


def test_a_recording_that_is_not_the_callers_alone_is_not_played(
    desk: Desk, recording: Path
) -> None:
    place, own = desk.recordings, (desk.user.uid, desk.user.gid)
    for path, mode in ((recording, 0o640), (recording, 0o602), (place, 0o750), (place, 0o707)):
        before = path.stat().st_mode & 0o7777
        path.chmod(mode)
        assert is_handed_over(desk), (path, oct(mode))
        path.chmod(before)
        os.chown(path, 0, 0)
        assert is_handed_over(desk), path
        os.chown(path, *own)
    assert not is_handed_over(desk)
    second = place / "second"
    second.hardlink_to(recording)
    assert is_handed_over(desk)
    recording.unlink()
    recording.symlink_to("second")
    assert is_handed_over(desk)
    second.rename(recording)
    with recording.open("r+b") as file:
        file.truncate(form.LARGEST + 1)
    assert is_handed_over(desk)
    recording.unlink()
    os.mkfifo(recording, 0o600)
    os.chown(recording, *own)
    assert is_handed_over(desk)
    shutil.rmtree(place)
    place.symlink_to("/tmp")
    assert is_handed_over(desk)
    assert desk.user.output("exec", desk.by_data, "echo", "yes") == "yes\n"
    place.unlink()


@pytest.mark.parametrize(
    "variables",
    [
        {"SINGRUN_BIND": "/usr/share:/data"},
        {"APPTAINERENV_X": "y"},
        {"SINGULARITY_CONTAIN": "1"},
        {"SINGRUN_PLAYER": "no"},
        {"SINGRUN_CACHEDIR": "/nowhere/cache"},
        {"SINGRUN_CONFIG": "/dev/null"},
        {"PS1": "> "},
        {"IFS": "x"},
        {"HOME": "/tmp"},
        {"FROM_CALLER": "other"},
        {"NOWHERE": "somewhere"},
        {"TMPDIR": "/var/tmp"},
        {"SLURM_STEP_ID": "1"},
        {"PMI_RANK": "0"},
        {"USER": "other"},
    ],
)
def test_a_variable_that_python_looks_at_makes_the_launch_its_own(
    desk: Desk, recording: Path, variables: dict[str, str]
) -> None:
    before = recording.read_bytes()
    for person in (desk.user, desk.plain):
        person.variables |= variables
    assert is_handed_over(desk)
    answers = [p.singrun("exec", desk.by_data, "env") for p in (desk.user, desk.plain)]
    assert answers[0].stdout == answers[1].stdout
    desk.user.variables = {"SINGRUN_CACHEDIR": str(desk.cache), "FROM_CALLER": "a b"}
    recording.write_bytes(before)
    assert desk.is_played("exec", desk.by_data, "true")


def refused(person: Person, image: Path, word: bytes) -> bool:
    done = person.singrun("exec", image, "true")
    return done.returncode == 255 and word in done.stderr


def test_a_policy_that_comes_later_refuses(desk: Desk, recording: Path) -> None:
    desk.policy.write_text("refuse path=*\n")
    desk.policy.chmod(0o644)
    assert refused(desk.user, desk.by_data, b"may not be run here")
    desk.policy.write_text("run path=*\n")
    assert not desk.is_played("exec", desk.by_data, "true")
    desk.policy.unlink()
    assert desk.is_played("exec", desk.by_data, "true")


def test_a_changed_site_file_counts(desk: Desk) -> None:
    desk.site.write_text("mount tmp = yes\n")
    desk.site.chmod(0o644)
    desk.user.variables["SINGRUN_CONFIG"] = str(desk.site)
    desk.recorded(desk.by_data)
    assert desk.is_played("exec", desk.by_data, "true")
    desk.site.write_text("allow user ns = no\n")
    assert refused(desk.user, desk.by_data, b"allow user ns = no")
    for line in ("log launches = /dev/null", "record launches = no", "mount hostfs = yes"):
        desk.site.write_text(f"{line}\n")
        desk.forget()
        for _ in range(4):
            assert not desk.is_played("exec", desk.by_data, "true"), line
        assert not desk.noted()


def test_another_image_of_that_name_is_seen(desk: Desk, recording: Path) -> None:
    before = desk.place / "before.img"
    desk.by_data.rename(before)
    subprocess.run(["cp", "--sparse=always", desk.by_script, desk.by_data], check=True)
    try:
        assert is_handed_over(desk)
        desk.by_data.unlink()
        assert is_handed_over(desk)
        assert refused(desk.user, desk.by_data, b"Cannot open the image")
    finally:
        before.rename(desk.by_data)
        desk.warm()  # a new name changes st_ctime


def test_an_image_that_is_being_written_is_busy(desk: Desk, recording: Path) -> None:
    words: list[Word] = ["flock", "-x", desk.by_data, "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"locked\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        assert is_handed_over(desk)
        holder.stdin.close()
    assert not is_handed_over(desk)


def test_an_unpacked_copy_that_is_gone_or_changed_is_python_s(desk: Desk, recording: Path) -> None:
    place = next(Path(w) for w in fields(recording) if w.startswith(f"{desk.cache}/"))
    away = place.with_suffix(".away")
    place.rename(away)
    assert is_handed_over(desk)
    assert desk.user.singrun("exec", desk.by_data, "true").returncode in (0, 255)
    shutil.rmtree(place, ignore_errors=True)
    away.rename(place)
    recording = desk.recorded(desk.by_data)
    assert not is_handed_over(desk)
    script = place / "tree/.singularity.d/env/50-paths.sh"
    script.write_text("export WITH=changed\n")
    assert is_handed_over(desk)
    assert "WITH=changed\n" in desk.user.output("exec", desk.by_data, "env")
    desk.recorded(desk.by_data)
    assert desk.is_played("exec", desk.by_data, "true")
    words: list[Word] = ["flock", "-x", place, "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"evicting\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        assert is_handed_over(desk)
        holder.stdin.close()


def test_a_changed_runtime_plans_anew(desk: Desk, recording: Path) -> None:
    module = desk.player.parents[1] / "mounts/pivot.py"
    module.write_text(module.read_text() + "\n")
    assert is_handed_over(desk)
    assert not desk.is_played("exec", desk.by_data, "true")
    desk.recorded(desk.by_data)
    assert desk.is_played("exec", desk.by_data, "true")


def test_what_has_just_been_changed_is_not_recorded(desk: Desk) -> None:
    """A launch could have read it before, and would note it as it is now."""
    desk.recorded(desk.by_data)
    module = desk.player.parents[1] / "mounts/pivot.py"
    soon = time.time() + 600
    os.utime(module, (soon, soon))  # st_ctime is now
    desk.forget()
    words = desk.user.words(desk.user.launcher, "exec", desk.by_data, "true")
    script = 'touch "$1"; shift; exec "$@"'  # of a process that began before the change
    command = ["sh", "-c", f"sleep 0.2; {script}", "sh", module, *words]
    for _ in range(4):
        subprocess.run(command, env=desk.user.environment(), cwd=desk.user.home, check=True)
    assert not desk.noted()
    assert desk.recorded(desk.by_data)


def test_words_that_the_shell_reads_are_python_s(desk: Desk, recording: Path) -> None:
    for word in ("-x", "", "a%b"):
        assert is_handed_over(desk, word)
    for words in (["exec"], ["exec", "true"], ["run", "true"]):
        own: list[Word] = [desk.player, "/bin/echo", "HERE", "MAIN", *words]
        environment = desk.user.environment() | {"PWD": desk.user.home}
        assert desk.user.call(*own, env=environment).stdout.startswith(b"-IS")


def test_the_program_ends_as_with_python(desk: Desk, recording: Path) -> None:
    missing = desk.place / "file of the host"
    missing.write_text("")
    words: list[tuple[str, ...]] = [
        ("sh", "-c", "exit 7"),
        ("sh", "-c", "kill -TERM $$"),
        ("no-such-command",),
        ("/no/such/command",),
        ("cat", str(missing)),
        ("sh", "-c", ":", "/", "/usr", "/home"),
        ("sh", "-c", 'cat; printf %s "$0" "$@"', "\n", "", "\\"),
    ]
    for each in words:
        answers = [
            person.singrun("exec", desk.by_data, *each, input=b"input")
            for person in (desk.user, desk.plain)
        ]
        results = [(done.returncode, done.stdout, done.stderr) for done in answers]
        assert results[0] == results[1], each
    for closed in ("<&-", ">&-", "2>&-"):
        script = f'"$@" {closed}'
        command = ("exec", desk.by_data, "sh", "-c", "ls /proc/self/fd >/dev/null")
        people = (desk.user, desk.plain)
        done = [p.call("sh", "-c", script, "sh", p.launcher, *command) for p in people]
        assert done[0].returncode == done[1].returncode


def test_many_launches_at_once_and_no_more_recordings_than_64(desk: Desk) -> None:
    words = desk.user.words(desk.user.launcher, "exec", desk.by_data, "true")
    environment = desk.user.environment()
    for _ in range(2):
        children = [subprocess.Popen(words, env=environment, cwd=desk.user.home) for _ in range(24)]
        assert {child.wait() for child in children} == {0}
    assert desk.is_played("exec", desk.by_data, "true")
    for number in range(70):
        (desk.recordings / f"{number:016x}").touch()
    assert not desk.is_played("exec", "-B", "/usr/share:/data", desk.by_data, "true")
    assert len([*desk.recordings.iterdir()]) <= 64
    assert desk.is_played("exec", desk.by_data, "true")  # those seen once go first


def test_a_recording_that_failed_rests_for_a_day(desk: Desk, recording: Path) -> None:
    def spoil(words: list[str]) -> list[str]:
        at = words.index("Q")
        return [*words[: at + 2], "/nowhere", *words[at + 3 :]]

    rewritten(recording, spoil)
    done = desk.user.singrun("exec", desk.by_data, "true")
    assert done.returncode == 255
    assert b"singrun: Cannot start: /nowhere: No such file" in done.stderr
    for _ in range(2):
        assert not desk.is_played("exec", desk.by_data, "true")
    assert recording.read_bytes() == directory.FAILED
    os.utime(recording, (0, 0))
    for played in (False, True):
        assert desk.is_played("exec", desk.by_data, "true") == played


def test_root_and_programs_with_more_rights_are_python_s(desk: Desk, recording: Path) -> None:
    own: list[Word] = [desk.player, "/bin/echo", "HERE", "MAIN", "exec", desk.by_data, "true"]
    done = subprocess.run(own, capture_output=True, check=True)
    assert done.stdout.startswith(b"-IS")
    assert b"-X player" not in done.stdout
