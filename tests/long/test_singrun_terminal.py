"""Many shells in a row, and a client of X11."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import wait_until
from tests.bench.singrun_images import Bench
from tests.host.runtime.test_singrun_terminal import shells_in_a_row

pytestmark = [pytest.mark.root, pytest.mark.long]


def test_twenty_shells_in_a_row_keep_job_control(bench: Bench) -> None:
    shells_in_a_row(bench, 20)


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="Xvfb is not installed")
@pytest.mark.skipif(not shutil.which("xclock"), reason="xclock is not installed")
def test_a_client_of_x11_draws_its_window(bench: Bench, tmp_path: Path) -> None:
    """The host's xclock with its libraries; the screen is compared before and after."""
    tree = bench.variant("x11")
    images.copy_program(Path(shutil.which("xclock") or ""), tree, "bin/xclock")
    user = bench.people["user"]
    number, started = start_display(tmp_path)
    try:
        environment = user.environment() | {"DISPLAY": f":{number}"}
        before = screenshot(number)
        words = user.words(
            user.launcher, "exec", tree, "xclock", "-bg", "red", "-geometry", "200x200"
        )
        with subprocess.Popen(words, env=environment, cwd="/", stderr=subprocess.PIPE) as clock:

            def is_drawn() -> bool:
                assert clock.poll() is None, clock.communicate()
                return difference(before, screenshot(number)) >= 10_000

            wait_until(is_drawn)
            clock.terminate()
    finally:
        started.terminate()
        started.wait()


def start_display(directory: Path) -> tuple[int, subprocess.Popen[bytes]]:
    """An X server on a free display; its number."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "400x300x24", "-nolisten", "tcp"]
    command.append("-noreset")  # else it turns clients away after the last one has gone: Xserver(1)
    log = (directory / "xvfb.log").open("wb")
    started = subprocess.Popen(command, pass_fds=[writing], stderr=log)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        number = int(pipe.readline())
    return number, started


def difference(before: bytes, after: bytes) -> int:
    return sum(a != b for a, b in zip(before, after, strict=True))


def screenshot(number: int) -> bytes:
    done = subprocess.run(
        ["xwd", "-root", "-silent", "-display", f":{number}"], capture_output=True, check=True
    )
    return done.stdout
