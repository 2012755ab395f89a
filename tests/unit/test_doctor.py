"""A trial works that comes to its end, and no other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from singrun.errors import RunError
from singrun.verbs import doctor


def refuse() -> None:
    raise RunError("Cannot do it", why="Because.")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: None, ""),
        (lambda: os.close(-1), "Bad file descriptor"),
        (refuse, "Cannot do it. Because."),
        (lambda: int("x"), "ValueError("),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended with status -9"),
    ],
)
def test_what_a_trial_came_to(action: Callable[[], None], words: str) -> None:
    assert doctor._failure(action).startswith(words)
    assert bool(words) == bool(doctor._failure(action))
