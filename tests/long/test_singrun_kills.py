"""Launches, ranks and changes that are killed hundreds of times at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.singrun_images import Bench, Person
from tests.host.runtime import test_singrun_launch_kills as launches
from tests.host.runtime import test_singularity_lines as lines
from tests.host.runtime.test_singrun_join import first_ranks_killed
from tests.host.runtime.test_singrun_launch import ordinary, person
from tests.host.runtime.test_singrun_strategies import superblock_fuzzed
from tests.host.runtime.test_singularity_lines import desk

pytestmark = [pytest.mark.root, pytest.mark.long]
__all__ = ["desk", "ordinary", "person"]


def test_a_kill_at_any_moment_leaves_nothing(person: Person, bench: Bench) -> None:
    launches.killed_at_any_moment(person, bench.image, 40)


def test_interruption_while_starting_leaves_nothing(ordinary: Person, bench: Bench) -> None:
    launches.interrupted_while_starting(ordinary, bench.image, 20)


@pytest.mark.parametrize("options", [[], ["-p"], ["-w"]])
def test_hundreds_of_launches_killed_at_random_moments_leave_nothing(
    person: Person, bench: Bench, options: list[str]
) -> None:
    """With all persons and options over a thousand that are to be killed."""
    rounds = 42 if "-w" in options else 19
    launches.killed_at_random_moments(person, bench.directory, bench.image, options, rounds)


@pytest.mark.parametrize("name", ["root, loop", "user", "user, unpack"])
def test_a_first_rank_that_is_killed_holds_up_nobody(bench: Bench, name: str) -> None:
    first_ranks_killed(bench.people[name], bench, 12)


@pytest.mark.parametrize("name", ["root, loop", "user"])
def test_a_fuzzed_superblock_is_refused_or_harmless(bench: Bench, name: str) -> None:
    superblock_fuzzed(bench.people[name], bench, 60)


@pytest.mark.parametrize("verb", lines.CHANGES)
def test_a_change_that_is_killed_leaves_a_sound_image(desk: Path, verb: str) -> None:
    lines.changes_killed(desk, verb, 4)
