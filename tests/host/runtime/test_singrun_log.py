"""What an administrator sees of launches: lines in the host's log, titles in ps."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.bench.host import wait_until
from tests.bench.singrun_images import Bench, read

pytestmark = pytest.mark.root


def configuration(bench: Bench, text: str) -> dict[str, str]:
    site = bench.directory / "site.conf"
    site.write_text(text)
    return bench.people["user"].environment() | {"SINGRUN_CONFIG": str(site)}


def test_each_launch_is_a_line_of_the_log_where_the_site_asks(bench: Bench) -> None:
    user, place = bench.people["user"], bench.directory / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(place))
        place.chmod(0o666)
        log.settimeout(60)
        env = configuration(bench, f"log launches = {place}\n")
        assert user.output("exec", bench.image, "echo", "a secret", env=env) == "a secret\n"
        line = log.recv(4096).decode()
        image = re.escape(str(bench.image))
        assert re.fullmatch(rf"<14>singrun\[\d+\]: uid={user.uid} image='{image}' exec echo", line)
        user.output("exec", bench.image, "true", env=configuration(bench, "log launches = no\n"))
        log.setblocking(False)
        with pytest.raises(BlockingIOError):
            log.recv(4096)


def test_a_name_makes_no_line_of_its_own(bench: Bench) -> None:
    user, place = bench.people["user"], bench.directory / "log2"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(place))
        place.chmod(0o666)
        log.settimeout(60)
        env = configuration(bench, f"log launches = {place}\n")
        user.call(user.launcher, "exec", bench.image, "x\n<0>kernel: panic", env=env)
        assert b"\n" not in log.recv(4096)


@pytest.mark.parametrize("listener", ["absent", "full"])
def test_a_log_that_does_not_listen_stops_no_launch(bench: Bench, listener: str) -> None:
    user, place = bench.people["user"], bench.directory / f"log-{listener}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        if listener == "full":
            log.bind(str(place))
            place.chmod(0o666)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sender.sendto(b"x", str(place))
        env = configuration(bench, f"log launches = {place}\n")
        assert user.output("exec", bench.image, "echo", "fine", env=env) == "fine\n"
    report = user.output("doctor", env=env)
    assert (f"there is no {place}; launches go on" in report) == (listener == "absent")


def titles() -> list[str]:
    """What ps shows of processes of ours."""
    lines = [read(path).strip("\0") for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line for line in lines if line.startswith("singrun: ")]


def test_ps_shows_what_a_waiting_process_and_an_instance_are(bench: Bench) -> None:
    user = bench.people["user"]
    words = user.words(user.launcher, "exec", "--pid", bench.image, "sleep", "1000")
    waiting = subprocess.Popen(words, env=user.environment(), cwd="/")
    user.output("start", bench.image, "titled")
    try:
        wait_until(lambda: f"singrun: waits for a program in {bench.image}" in titles())
        assert f"singrun: instance titled of {bench.image}" in titles()
    finally:
        waiting.send_signal(signal.SIGTERM)
        waiting.wait()
        user.output("stop", "titled")
