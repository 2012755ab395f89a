"""A tree that an image's program fills is measured often enough, and ends by its deadline."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.images import unpacker

DEADLINE = 600.0


class Clock:
    """The modules time and select of a process that waits for a silent program."""

    POLLIN = select.POLLIN

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now

    def poll(self) -> Poller:
        return Poller(self)


class Poller:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def register(self, output: int, events: int) -> None:
        pass

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self._clock.pauses.append(milliseconds / 1000)
        self._clock.now += milliseconds / 1000
        return []


def test_a_program_that_never_ends_is_ended_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(unpacker, "time", clock)
    monkeypatch.setattr(unpacker, "select", clock)
    bounds = unpacker.Amount(1 << 20, 10, 10)
    with pytest.raises(RunError) as caught:
        unpacker._read_output(-1, str(tmp_path), bounds, DEADLINE)
    assert "takes too long" in caught.value.why
    assert DEADLINE <= clock.now < DEADLINE + 1
    assert max(clock.pauses) < 1  # an empty tree is measured at once
