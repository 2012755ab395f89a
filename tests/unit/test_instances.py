"""Only instances are stopped, and numbers that people type are such."""

from __future__ import annotations

import os
import subprocess

import pytest

from singrun import instances
from singrun.errors import UsageError
from singrun.verbs import instance


def described(pid: int) -> instances.Instance:
    """An instance of that number, as its process would describe it."""
    reading, writing = os.pipe()
    os.write(writing, b"\0".join([b"web", b"/image", b"", b"1", b"image-1-2", b"", b"/log"]))
    os.close(writing)
    return instances.Instance(reading, pid)


def test_another_process_that_has_its_number_is_not_stopped() -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        instances.end([described(other.pid)], 0)
        assert other.poll() is None
        other.kill()
    instances.end([described(other.pid)], 0)  # nobody has it now


@pytest.mark.parametrize("seconds", ["-5", "9" * 400, "1.5", "²", "", "10000000"])
def test_a_time_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(UsageError, match="no number of seconds"):
        instance.explain(["stop", "--timeout", seconds, "web"])
