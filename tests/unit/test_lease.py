"""One process at a time for a name: whoever dies, wherever locks do not work."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from singbuild import lease
from tests.bench.host import PATIENCE, wait_until
from tests.bench.no_flock import refuse_flock

MANY = """
import sys, time
from pathlib import Path
from singbuild.lease import leased
place = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with leased(place):
        inside = place.with_name("inside")
        inside.touch(exist_ok=False)
        time.sleep(0.002)
        inside.unlink()
"""
HOLD = """
import sys, time
from pathlib import Path
from singbuild.lease import leased
with leased(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thread of all owners reads it before it sleeps: else tests wait for each other."""
    monkeypatch.setattr(lease, "BEAT", 0.1)


def started(code: str, *words: object) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(arguments, stdout=-1, text=True, preexec_fn=refuse_flock)


def holder(place: Path) -> subprocess.Popen[str]:
    process = started(HOLD, place)
    assert process.stdout
    assert process.stdout.readline() == "mine\n"
    return process


def test_never_two_at_once_without_flock(tmp_path: Path) -> None:
    processes = [started(MANY, tmp_path / "name", 20) for _ in range(8)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 8
    assert not [*tmp_path.iterdir()]


def test_never_two_at_once_while_owners_are_killed(tmp_path: Path) -> None:
    place = tmp_path / "name"
    killed = [holder(place)]
    killed[0].kill()
    killed[0].communicate()
    waiting = [started(MANY, place, 5) for _ in range(6)]
    for process in waiting:
        process.communicate()
    assert [process.returncode for process in waiting] == [0] * 6
    assert not [*tmp_path.iterdir()]


def test_who_waits_is_told_once_and_goes_on_at_once_after_a_kill(tmp_path: Path) -> None:
    place, waits = tmp_path / "name", []
    process = holder(place)

    def work() -> None:
        with lease.leased(place, lambda: waits.append("waits")) as is_doubtful:
            waits.append(str(is_doubtful))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: waits == ["waits"])
    process.kill()
    process.communicate()
    thread.join(timeout=20 * PATIENCE)
    assert waits == ["waits", "False"]


def test_an_owner_of_another_host_is_believed_while_its_heart_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENCE", 1.0 * PATIENCE)
    owner, done = tmp_path / "name.owner1", threading.Event()
    owner.write_text("0123 another-host 7\n")
    began = time.monotonic()

    def beat() -> None:
        while time.monotonic() - began < 3 * PATIENCE:
            time.sleep(0.2)
            owner.touch()
        done.set()

    threading.Thread(target=beat).start()
    with lease.leased(tmp_path / "name") as is_doubtful:
        assert done.is_set()
        assert is_doubtful
    assert not [*tmp_path.iterdir()]


def test_one_that_never_said_who_it_is_does_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "UNSIGNED", 0.5)
    (tmp_path / "name.owner1").touch()
    with lease.leased(tmp_path / "name"):
        assert {path.name for path in tmp_path.iterdir()} == {"name.owner1", "name.owner2"}
    assert not [*tmp_path.iterdir()]


def test_an_owner_touches_its_file(tmp_path: Path) -> None:
    with lease.leased(tmp_path / "name"):
        owner = tmp_path / "name.owner1"
        before = owner.stat().st_mtime_ns
        wait_until(lambda: owner.stat().st_mtime_ns > before)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), lease.leased(tmp_path / "none" / "name"):
        pass


def test_an_owner_that_was_taken_for_dead_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stalls after it made its file, before it wrote there who it is."""
    monkeypatch.setattr(lease, "UNSIGNED", 0.1)
    name, events = lease._here(), list[str]()
    is_taken, has_stalled = threading.Event(), threading.Event()

    def stalling() -> str:
        if threading.current_thread().name == "slow" and not has_stalled.is_set():
            has_stalled.set()
            is_taken.wait(60 * PATIENCE)
        return name

    def work() -> None:
        with lease.leased(tmp_path / "name", lambda: events.append("waits")):
            events.append("owns")

    monkeypatch.setattr(lease, "_here", stalling)
    thread = threading.Thread(target=work, name="slow")
    thread.start()
    assert has_stalled.wait(60 * PATIENCE)
    with lease.leased(tmp_path / "name"):
        is_taken.set()
        wait_until(lambda: bool(events))
        assert events == ["waits"]
    thread.join()
    assert events == ["waits", "owns"]
    assert not [*tmp_path.iterdir()]


def test_a_later_file_of_a_dead_owner_is_in_nobodys_way(tmp_path: Path) -> None:
    killed = holder(tmp_path / "name")
    killed.kill()
    killed.communicate()
    (tmp_path / "name.owner1").rename(tmp_path / "name.owner2")
    with lease.leased(tmp_path / "name"):
        assert (tmp_path / "name.owner1").exists()
    assert not [*tmp_path.iterdir()]
