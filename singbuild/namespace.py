"""Executes work in process and mount namespaces that end with it, whatever happens.

    outer ── fork ──▶ init (PID 1, dies with outer) ── fork ──▶ worker

When outer dies, the kernel kills init; when init ends, the kernel kills every
process of the namespace; when the last process is gone, so are the mount
namespace, its mounts, and the loop devices under them. So a build leaves no
process, mount or loop device even when it is ended by SIGKILL.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from singbuild.errors import EXIT_BUG
from singrun import syscalls

PR_SET_PDEATHSIG = 1  # prctl(2)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """A signal asked the work to end. number: SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(work: Callable[[], int]) -> int:
    """Execute ``work`` in namespaces of its own and return the status it returns.

    A worker that dies of a signal gives 128 + its number. SIGINT, SIGTERM and SIGHUP
    are passed on and raise ``Terminated`` in it, once. Needs CAP_SYS_ADMIN.
    Raises OSError when the kernel refuses the namespaces.
    """
    outer = os.pidfd_open(os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY)
    syscalls.unshare(syscalls.CLONE_NEWPID)
    # Held back until each process has its handlers; none may be lost or kill too early.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    init = os.fork()
    if init == 0:
        os._exit(_init(outer, work))
    os.close(outer)
    previous = _handled(lambda number, _frame: os.kill(init, number))
    try:
        return _shell_status(os.waitpid(init, 0)[1])
    finally:
        syscalls.setns(ours, syscalls.CLONE_NEWPID)  # whatever is forked from here on
        os.close(ours)
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_others() -> None:
    """Kill every process of the namespace but init and the caller: daemons that a section left."""
    if os.getpid() == 1 or os.getppid() != 1:
        return  # not in a namespace of our own: there are others here that are not ours
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def _init(outer: int, work: Callable[[], int]) -> int:
    """Be PID 1: fork the worker, reap whatever ends, return the worker's status."""
    syscalls.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([outer], [], [], 0)[0]:
        return 128 + signal.SIGKILL  # outer died before the line above
    os.close(outer)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV, "")
    worker = os.fork()
    if worker == 0:
        os._exit(_worker(work))
    _handled(lambda number, _frame: os.kill(worker, number))
    while True:
        pid, status = os.wait()
        if pid == worker:
            return _shell_status(status)


def _worker(work: Callable[[], int]) -> int:
    try:
        _handled(_raise_terminated)
        return work()
    except Terminated as ended:
        return 128 + ended.number
    except BaseException:
        traceback.print_exc()
        return EXIT_BUG
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)  # Ctrl-C comes from the terminal and from outer
    raise Terminated(number)


def _handled(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Handle the ending signals, and let them come; return the handlers that stood before."""
    previous = {number: signal.signal(number, handler) for number in ENDING}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    return previous


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
