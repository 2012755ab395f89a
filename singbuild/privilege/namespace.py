"""Executes work in process and mount namespaces that end with it, whatever happens.

    outer ── fork ──▶ init (PID 1, dies with outer) ── fork ──▶ worker

When outer dies, the kernel kills init; when init ends, the kernel kills every
process of the namespace; when the last process is gone, so are the mount
namespace, its mounts, and the loop devices under them. So a build leaves no
process, mount or loop device even when it is ended by SIGKILL. For a caller who
is not root, one more process stands between outer and init, and makes the user
namespace: of one id, the caller's, or with subordinate ones besides. With those, files
may belong to others than the caller; so when outer dies, the worker is asked to end,
and takes them away itself.

Where no namespaces may be had, init adopts what the worker leaves behind, ends it with the
worker, and is asked to end when outer dies. When all of them are killed at
once, the scratch is left, and the next build sweeps it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from singbuild.errors import EXIT_BUG
from singbuild.privilege import capabilities, subordinate
from singbuild.privilege.subordinate import Ranges
from singrun import syscalls

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 36, 37  # prctl(2)
IGNORABLE_SIGNALS = (signal.SIGINT, signal.SIGHUP)
ENDING_SIGNALS = (*IGNORABLE_SIGNALS, signal.SIGTERM)


class Terminated(BaseException):
    """A signal asked the work to end. number: SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Supervisor(Protocol):
    """Answers system calls of the worker and its children, as ``recorder.Recorder`` does."""

    def install(self) -> None:
        """Put this process and its children under the filter; called in the worker."""

    def serve(self) -> None:
        """Answer in a thread; called in init."""

    def descriptors(self) -> Sequence[int]:
        """Return the descriptors that ``serve`` needs; init has no others."""


def run(
    work: Callable[[], int],
    ids: Ranges | None = None,
    supervisor: Supervisor | None = None,
    drop: Sequence[int] = (),
) -> int:
    """Execute ``work`` in namespaces of its own and return the status it returns.

    ids: the caller's subordinate ones, mapped into it; supervisor: answers its system calls.
    SIGINT, SIGTERM and SIGHUP are passed on and raise ``Terminated`` in it, once; a worker that a
    signal kills has the status 128 + its number. A caller who is not root becomes root of a user
    namespace. Raises OSError when the kernel refuses the namespaces.

    drop: capabilities that the work is not to have; with any, it gets no namespaces at all.
    """
    # Before fork(2): what is buffered then would be printed twice.
    sys.stdout.flush()
    sys.stderr.flush()
    if os.geteuid() == 0 and ids is None and not drop:
        return _in_namespaces(work, supervisor)
    outer = os.pidfd_open(os.getpid())
    try:
        if drop:
            return fork_and_wait(lambda: _as_subreaper(outer, work, supervisor, drop))
        return in_user_namespace(outer, ids, lambda: _in_namespaces(work, supervisor))
    finally:
        os.close(outer)


def nested(work: Callable[[], int]) -> int:
    """Execute ``work`` in namespaces within those of ``run``; to be called in a worker of that."""
    return _in_namespaces(work, None)


def as_owner(ids: Ranges, work: Callable[[], int]) -> int:
    """Execute ``work`` in a user namespace that has the caller's subordinate ids, and no other."""
    return in_user_namespace(None, ids, work)


def in_user_namespace(outer: int | None, ids: Ranges | None, work: Callable[[], int]) -> int:
    """Execute ``work`` as root of a new user namespace (user_namespaces(7)), in a process.

    outer: the pidfd of a process to end with. Returns the status of ``work``.
    """
    uid, gid = os.geteuid(), os.getegid()
    # newuidmap(1) maps ids from the parent namespace: after unshare(2), of which the first pipe
    # tells it, and before the work begins, which waits for the second.
    created_reader, created_writer = os.pipe()
    mapped_reader, mapped_writer = os.pipe()

    def child() -> int:
        os.close(mapped_writer)
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        if outer is not None:
            _die_with(outer, signal.SIGTERM if ids else signal.SIGKILL)
        if ids:
            os.write(created_writer, b"x")
            if not os.read(mapped_reader, 1):
                return EXIT_BUG  # subordinate.lend() failed, and has said why
            os.setgroups([])
        else:
            # Or gid_map cannot be written without privilege: user_namespaces(7), CVE-2014-8989.
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        return work()

    def map_ids(pid: int) -> None:
        os.close(created_writer)
        if ids and os.read(created_reader, 1):
            subordinate.lend(pid, ids)
            os.write(mapped_writer, b"x")

    try:
        return fork_and_wait(child, map_ids)
    finally:
        for fd in (created_reader, mapped_reader, mapped_writer):
            os.close(fd)


def _in_namespaces(work: Callable[[], int], supervisor: Supervisor | None) -> int:
    """Execute ``work`` in process and mount namespaces. The caller's own stay as they are."""
    outer = os.pidfd_open(os.getpid())
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY)
    # Only children are put into the new one, and the first is its init: pid_namespaces(7). The
    # mounts are left in that child, so that this process keeps its own.
    syscalls.unshare(syscalls.CLONE_NEWPID)
    try:
        return fork_and_wait(lambda: _init(outer, work, supervisor))
    finally:
        with contextlib.suppress(PermissionError):  # in a user namespace nobody forks after us
            syscalls.setns(ours, syscalls.CLONE_NEWPID)
        os.close(ours)
        os.close(outer)


def fork_and_wait(child: Callable[[], int], meanwhile: Callable[[int], None] | None = None) -> int:
    """Execute ``child`` in a process of its own, pass ending signals on, return its status.

    meanwhile: what to do with it while it runs, by its id; if that fails, the child is killed.
    """
    # Blocked until each process has its handlers; none may be lost or kill too early.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    pid = os.fork()
    if pid == 0:
        status = EXIT_BUG
        try:
            status = child()
        except BaseException:
            traceback.print_exc()
        # Not sys.exit(): the finally blocks of our callers are for the process that forked.
        os._exit(status)
    previous = _handle_ending(lambda number, _frame: os.kill(pid, number))
    try:
        if meanwhile:
            meanwhile(pid)
        return _shell_status(os.waitpid(pid, 0)[1])
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _die_with(process: int, number: int = signal.SIGKILL) -> None:
    """Get a signal when the process that forked us ends. process: its pidfd."""
    syscalls.prctl(PR_SET_PDEATHSIG, number)
    # Not getppid(2): it is 0 for a parent outside of the PID namespace, dead or alive. Nor
    # select(2), which takes no descriptor from 1,024 on: the caller may have left many open.
    parent = select.poll()
    parent.register(process, select.POLLIN)
    if parent.poll(0):
        os._exit(128 + signal.SIGKILL)  # it ended before prctl(2)


def end_others() -> None:
    """Kill every process of the build but init and the caller: daemons that a section left."""
    if _adopts():
        _end_children()
        return
    if os.getpid() == 1 or os.getppid() != 1:
        return  # not in a namespace of our own: there are others here that are not ours
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def _init(outer: int, work: Callable[[], int], supervisor: Supervisor | None) -> int:
    """Be PID 1: fork the worker, reap whatever ends, return the worker's status."""
    _die_with(outer)
    os.close(outer)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # systemd makes / shared: without this every mount of the build would appear on the host.
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    # Of this PID namespace; the host's shows processes under other ids.
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV, "")
    worker = os.fork()
    if worker == 0:
        os._exit(_worker(work, supervisor))
    return _reap_until_end(worker, supervisor)


def _reap_until_end(worker: int, supervisor: Supervisor | None) -> int:
    """Serve the worker, pass signals on to it, and reap whatever ends until it does."""
    # The recorder opens paths for programs of the image: no path may lead to the builder's files.
    _close_others(supervisor.descriptors() if supervisor else ())
    if supervisor:
        supervisor.serve()
    _handle_ending(lambda number, _frame: os.kill(worker, number))
    while True:
        pid, status = os.wait()
        if pid == worker:
            return _shell_status(status)


def _close_others(needed: Sequence[int]) -> None:
    """Close all descriptors but the standard ones and those that are needed."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - names are wanted
        if fd > 2 and fd not in needed:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(fd)


def _as_subreaper(
    outer: int, work: Callable[[], int], supervisor: Supervisor | None, drop: Sequence[int]
) -> int:
    """Be init without a namespace: end what the worker leaves, return the worker's status."""
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Not SIGKILL: there is no PID namespace whose end would end what the worker has started.
    _die_with(outer, signal.SIGTERM)
    os.close(outer)
    for capability in drop:
        capabilities.drop(capability)
    init = os.pidfd_open(os.getpid())
    worker = os.fork()
    if worker == 0:
        syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
        _die_with(init, signal.SIGTERM)
        if supervisor:  # seccomp(2) asks for it where CAP_SYS_ADMIN is missing
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        os._exit(_worker(work, supervisor))
    status = _reap_until_end(worker, supervisor)
    # A second Ctrl-C may not keep some of them alive.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _end_children()
    return status


def _adopts() -> bool:
    """Whether the orphans among this process's descendants become its children."""
    answer = ctypes.c_int()
    syscalls.prctl(PR_GET_CHILD_SUBREAPER, ctypes.addressof(answer))
    return bool(answer.value)


def _end_children() -> None:
    """Kill all descendants of a subreaper; the children of each killed one become ours: prctl(2).

    Only children are killed: nobody else can have got their ids.
    """
    while children := [
        int(pid)
        for thread in Path("/proc/self/task").iterdir()
        for pid in (thread / "children").read_text().split()
    ]:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _worker(work: Callable[[], int], supervisor: Supervisor | None) -> int:
    try:
        _handle_ending(_raise_terminated)
        if supervisor:
            supervisor.install()
        return work()
    except Terminated as ended:
        return 128 + ended.number
    except BaseException:
        traceback.print_exc()
        return EXIT_BUG
    finally:
        # os._exit() follows, which flushes nothing.
        sys.stdout.flush()
        sys.stderr.flush()


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # Ctrl-C comes from the terminal and from outer
    raise Terminated(number)


def _handle_ending(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Handle the ending signals, and let them come; return the handlers that stood before."""
    # nohup(1) and a script's & ignore them for who is to go on; of SIGTERM see _die_with().
    ignored = {n for n in IGNORABLE_SIGNALS if signal.getsignal(n) is signal.SIG_IGN}
    handled = [number for number in ENDING_SIGNALS if number not in ignored]
    previous = {number: signal.signal(number, handler) for number in handled}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    return previous


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
