"""The recorder's own descriptors: whatever a program's question leads to, none is left open."""

from __future__ import annotations

import os
import resource
from typing import cast

import pytest

from singbuild.privilege.recorder import AT_FDCWD, Recorder, _Place
from singbuild.privilege.seccomp import Question


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_place_that_cannot_be_opened_leaves_nothing_open() -> None:
    question = Question(0, os.getpid(), "chown", ())
    before, limits = opened(), resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _Place(cast("Recorder", None), question, 100_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))  # for the root alone
    try:
        with pytest.raises(OSError, match="Too many open files"):
            _Place(cast("Recorder", None), question, AT_FDCWD)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert opened() == before
