"""Ranks by the dozen that player.c has join: killed, stopped, and while the host is at work."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.bench.host import random_numbers
from tests.host.runtime import test_recordings_ranks as ranks
from tests.host.runtime.test_recordings_ranks import Job, desk, job, module_desk
from tests.long.test_launches_at_once import unrest

pytestmark = [*ranks.pytestmark, pytest.mark.long]
__all__ = ["desk", "job", "module_desk"]


def test_first_ranks_killed_by_the_hundreds_hold_up_nobody(job: Job) -> None:
    ranks.first_ranks_killed(job, 100)


def test_first_ranks_that_are_stopped_hold_up_nobody(job: Job) -> None:
    chance = random_numbers()
    ranks.end(job.first)
    for _ in range(6):
        some = [ranks.started(job.desk.user, *job.words) for _ in range(6)]
        time.sleep(chance.uniform(0, 0.1))
        some[0].send_signal(signal.SIGSTOP)
        places = [ranks.where(rank) for rank in some[1:]]
        assert len({place[:2] for place in places}) in range(1, 6)
        some[0].send_signal(signal.SIGCONT)
        assert ranks.where(some[0])
        ranks.end(*some)
        assert {rank.returncode for rank in some} == {0}


def test_no_rank_of_many_fails_while_the_host_mounts(job: Job, tmp_path: Path) -> None:
    desk = job.desk
    ranks.end(job.first)
    with unrest(tmp_path / "unrest"):
        for _ in range(8):
            some = [ranks.started(desk.user, *job.words) for _ in range(64)]
            assert len({ranks.where(rank)[:2] for rank in some}) == 1
            ranks.end(*some)
            assert {rank.returncode for rank in some} == {0}
