"""Builds that are killed, with more to write and at more moments than those of `make test`."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import Build, killed_in
from tests.bench.host import wait_until
from tests.host.cache.test_cache import TEXT, cached, kill_and_look

pytestmark = [pytest.mark.root, pytest.mark.long]
__all__ = ["cached"]


def test_sigkill_while_sealing_keeps_the_old_target_whole(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    target = tmp_path / "a.img"
    assert singbuild(recipe("Bootstrap: busybox\n"), target).returncode == 0
    before = target.read_bytes()
    large = tmp_path / "large.def"
    big = "head -c 300M /dev/urandom >$SINGBUILD_ROOTFS/big"
    large.write_text(f"Bootstrap: busybox\n%setup\n    {big}\n")
    words: list[str | Path] = ["--no-cache", "--force", large, target]
    for delay in (0, 0.05, 0.1, 0.2):
        assert killed_in("seal", signal.SIGKILL, words, tmp_path, delay) == -signal.SIGKILL
        assert target.read_bytes() == before
    wait_until(lambda: singbuild("--force", large, target).returncode == 0, 60)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)


def test_kill_in_the_middle_of_keeping_a_stage_loses_nothing(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    kill_and_look(cached, recipe(TEXT), singbuild, tmp_path, 200, (0.2, 0.4, 0.6, 0.8, 1.0))
