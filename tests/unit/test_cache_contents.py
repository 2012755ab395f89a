"""singbuild cache: all that is kept is counted, and can be removed."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.unit.test_first_words import Say, say

__all__ = ["say"]  # the fixture
DAY = 86400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a download, an image of a registry and a log."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = tmp_path / "cache"
    for name in ("busybox/0123", "pulled/docker:library%2Fpython/python"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_bytes(bytes(100_000))
    for name in ("docker/sha256", "pulled/docker:killed"):  # nothing came of it
        (place / name).mkdir(parents=True)
    place.chmod(0o700)
    (tmp_path / "state/singbuild/log").mkdir(parents=True)
    (tmp_path / "state/singbuild/log/a.img-1.log").write_text("failed")
    return place


def listed(say: Say) -> dict[str, str]:
    """Names by kind."""
    items = json.loads(say("cache", "list", "--json")[1])["items"]
    return {item["kind"]: item["name"] for item in items}


def test_everything_is_listed_and_counted(cache: Path, say: Say) -> None:
    names = {"download": "busybox", "image": "docker:library/python", "log": "a.img-1"}
    assert listed(say) == names
    usage = json.loads(say("cache", "du", "--json")[1])
    assert usage["kinds"]["download"] >= 100_000
    assert usage["kinds"]["image"] >= 100_000
    assert usage["cache"] == str(cache)
    lines = say("cache", "list")[1].splitlines()
    assert lines[0].split()[:3] == ["KIND", "LAST", "USED"]
    assert len(lines) == 4


def test_clean_removes_all_or_a_kind_and_tells_before(cache: Path, say: Say) -> None:
    assert say("cache", "clean", "--all", "--dry-run")[1].startswith("would remove 3 items")
    assert len(listed(say)) == 3
    assert say("cache", "clean", "download")[0] == 0
    assert {*listed(say)} == {"image", "log"}
    assert say("cache", "clean")[0] == 0
    assert {*listed(say)} == {"log"}
    assert say("cache", "clean", "--all")[0] == 0
    assert listed(say) == {}


def test_what_was_not_used_for_days_goes_but_for_logs(cache: Path, say: Say) -> None:
    old = cache / "pulled/docker:library%2Fpython/python"
    for path in (old, old.parent, cache.parent / "state/singbuild/log/a.img-1.log"):
        os.utime(path, (path.stat().st_mtime - 40 * DAY,) * 2)
    assert say("cache", "prune", "--older", "30")[0] == 0
    assert {*listed(say)} == {"download", "log"}


@pytest.mark.parametrize("days", ["nan", "inf", "-1"])
def test_what_is_no_number_of_days_removes_nothing(cache: Path, say: Say, days: str) -> None:
    assert say("cache", "prune", f"--older={days}")[0] == 2
    assert len(listed(say)) == 3


def test_downloads_stay_while_a_build_uses_the_cache(cache: Path, say: Say) -> None:
    lock = os.open(cache, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    status, _, err = say("cache", "clean")
    assert (status, "in use by a build" in err) == (5, True)
    os.close(lock)
    assert len(listed(say)) == 3


def test_shared_images_are_shown_and_never_removed(
    cache: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = cache.parent / "library"
    (library / "docker:a%2Fb").mkdir(parents=True)
    (library / "docker:a%2Fb/b").write_bytes(bytes(50_000))
    (library / "b").symlink_to("docker:a%2Fb/b")
    monkeypatch.setenv("SINGRUN_LIBRARY", str(library))
    lines = [line.split() for line in say("cache", "list")[1].splitlines()]
    assert lines[0][-1] == "WHY"
    assert [line[5] for line in lines if line[0] == "library"] == ["b", "docker:a/b"]
    assert all(len(line) > 6 for line in lines[1:])  # each has a reason
    say("cache", "clean", "--all")
    assert {*listed(say)} == {"library"}
    assert (library / "docker:a%2Fb/b").exists()
