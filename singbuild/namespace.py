"""Executes work in process and mount namespaces that end with it, whatever happens.

    outer ── fork ──▶ init (PID 1, dies with outer) ── fork ──▶ worker

When outer dies, the kernel kills init; when init ends, the kernel kills every
process of the namespace; when the last process is gone, so are the mount
namespace, its mounts, and the loop devices under them. So a build leaves no
process, mount or loop device even when it is ended by SIGKILL. For a caller who
is not root, one more process stands between outer and init, and makes the user
namespace.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
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
    are passed on and raise ``Terminated`` in it, once. For a caller who is not root,
    all of it happens in a user namespace in which the caller is. Raises OSError when
    the kernel refuses the namespaces.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if os.geteuid() == 0:
        return _contained(work)
    outer = os.pidfd_open(os.getpid())
    status = _forked(lambda: _in_user_namespace(outer, lambda: _contained(work)))
    os.close(outer)
    return status


def refusal() -> str:
    """Return why this host gives the caller no user namespace, "" when it does."""

    def attempt() -> int:
        try:
            return _in_user_namespace(None, _mounts_refused)
        except OSError as error:
            return error.errno or 1

    status = _forked(attempt)
    return os.strerror(status) if status else ""


def _mounts_refused() -> int:
    """Return the errno with which a process namespace gets no /proc of its own, 0 when it does."""

    def attempt() -> int:
        try:
            syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV, "")
        except OSError as error:
            return error.errno or 1
        return 0

    syscalls.unshare(syscalls.CLONE_NEWPID)
    return _forked(attempt)


def _in_user_namespace(outer: int | None, work: Callable[[], int]) -> int:
    """Become root of a new user namespace that knows the caller alone: user_namespaces(7)."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    if outer is not None:
        _die_with(outer)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return work()


def _contained(work: Callable[[], int]) -> int:
    """Execute ``work`` in process and mount namespaces. The caller's own stay as they are."""
    outer = os.pidfd_open(os.getpid())
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY)
    syscalls.unshare(syscalls.CLONE_NEWPID)
    try:
        return _forked(lambda: _init(outer, work))
    finally:
        with contextlib.suppress(PermissionError):  # in a user namespace nobody forks after us
            syscalls.setns(ours, syscalls.CLONE_NEWPID)
        os.close(ours)
        os.close(outer)


def _forked(child: Callable[[], int]) -> int:
    """Execute ``child`` in a process of its own, pass ending signals on, return its status."""
    # Held back until each process has its handlers; none may be lost or kill too early.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    pid = os.fork()
    if pid == 0:
        status = EXIT_BUG
        try:
            status = child()
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    previous = _handled(lambda number, _frame: os.kill(pid, number))
    try:
        return _shell_status(os.waitpid(pid, 0)[1])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _die_with(process: int) -> None:
    """End by SIGKILL when the process that forked us ends. process: its pidfd."""
    syscalls.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([process], [], [], 0)[0]:
        os._exit(128 + signal.SIGKILL)  # it ended before the line above


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
    _die_with(outer)
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
