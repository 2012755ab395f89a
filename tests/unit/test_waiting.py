"""A launch's waiting process: signals handed on, and the program's status."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
from singrun.namespaces.waiting import Waiter

{before}
waiter = Waiter()
waiter.fork(own_pids=False)
waiter.enter(own_pids=False)
{program}
"""
BUSY_KERNEL = """
def slow_kill(pid, number, kill=os.kill):
    time.sleep(0.001)
    kill(pid, number)

os.kill = slow_kill
"""
STORM = """
import os, sys, time
while True:
    os.kill(int(sys.argv[1]), 10)
"""


def launch(program: str, before: str = "") -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PROGRAM.format(program=program, before=before)]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_storm_of_signals_ends_nothing() -> None:
    """Handlers of Python, which interrupt each other, ended in a RecursionError.

    That takes a kernel in which a signal is sent more slowly than the next one arrives.
    """
    program = """
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.execvp("sh", ["sh", "-c", "echo here; sleep 2; exit 7"])
"""
    with launch(program, BUSY_KERNEL) as child:
        assert child.stdout
        assert child.stdout.readline() == "here\n"
        with subprocess.Popen(
            [sys.executable, "-c", STORM, str(child.pid)], stderr=subprocess.DEVNULL
        ):
            assert (child.communicate()[1], child.returncode) == ("", 7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGALRM])
def test_a_signal_ends_the_program_and_the_launch(number: signal.Signals) -> None:
    program = "os.execvp('sh', ['sh', '-c', 'echo here; exec sleep 600'])"
    with launch(program) as child:
        assert child.stdout
        assert child.stdout.readline() == "here\n"
        child.send_signal(number)
        assert (child.communicate()[1], child.returncode) == ("", -number)
