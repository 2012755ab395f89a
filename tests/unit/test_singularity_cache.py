"""`singularity cache`: what it lists and removes, and when it does not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.unit.test_singularity import singularity


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a download, a part that is being written, who writes it, and an image."""
    place = tmp_path / "cache"
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(place))
    for name in ("docker/blob", "docker/key.part", "docker/key.part.owner1", "pulled/x/x.sif"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("x")
    place.chmod(0o700)
    return place


def files(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*") if path.is_file()}


def test_nothing_is_removed_while_a_build_uses_the_cache(cache: Path) -> None:
    before = files(cache)
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        done = singularity("cache", "clean", "--force")
        assert done.returncode == 255, done.stderr
        assert "is in use by a build" in done.stderr
        assert files(cache) == before
        assert singularity("cache", "clean", "--dry-run").returncode == 0
    finally:
        os.close(descriptor)
    assert singularity("cache", "clean", "--force").returncode == 0
    assert files(cache) == set()


@pytest.mark.parametrize(
    ("kinds", "count"), [("all,pulled", 4), ("pulled", 1), ("all", 4), ("docker,pulled", 4)]
)
def test_all_is_all_whatever_else_is_named(cache: Path, kinds: str, count: int) -> None:
    assert files(cache)
    done = singularity("cache", "list", "--type", kinds)
    assert f"There are {count} file(s)" in done.stdout, done.stderr
