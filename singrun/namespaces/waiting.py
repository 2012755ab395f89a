"""The process that waits for a program, and the process 1 of its PID namespace; see standby.py."""

import _signal  # type: ignore[import-not-found]  # built in, already loaded; signal itself is dear
import os

from singrun import syscalls
from singrun.errors import spelling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_KEYBOARD = (_signal.SIGINT, _signal.SIGQUIT)  # the terminal sends these to the program itself
_FORWARDED = (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM)
_WORD = 4  # bytes of a wait status


class Waiter:
    """The process that the caller started waits here, and ends with the program's status."""

    marker = ""  # no other launch enters its namespaces

    def __init__(self, image: str = "") -> None:
        self._image = image
        self._reading, self._writing = os.pipe()

    def fork(
        self,
        *,
        own_pids: bool,
        trees: "tuple[int, ...] | list[int]" = (),
        afterwards: "Callable[[], None] | None" = None,
    ) -> None:
        """Return in a child, with own_pids as process 1 of a new PID namespace.

        afterwards: what the waiting process does when the program has ended.
        """
        from singrun import title

        # Before the fork: the child's pivot_root(2) moves this process's root, and its /proc, too.
        title.show(f"singrun: waits for a program in {self._image}")

        if own_pids:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        child = os.fork()
        if child:
            for fd in (self._writing, *trees):
                os.close(fd)
            status = _wait_for(child)
            inner = os.read(self._reading, _WORD)
            if afterwards:
                afterwards()
            _end_as(int.from_bytes(inner, "little") if inner else status)
        os.close(self._reading)
        die_with_parent()

    def enter(self, *, own_pids: bool) -> None:
        """Return in the process that becomes the program; a process 1 stays here and reaps."""
        die_with_parent()
        child = os.fork() if own_pids else 0
        if child:
            _take_inits_name()
            os.write(self._writing, _wait_for(child).to_bytes(_WORD, "little"))
            os._exit(0)


def _take_inits_name() -> None:
    """Take the name of Singularity's process 1, by which Open OnDemand ends a desktop. proc(5)."""
    try:
        # As bytes: Python finds no module of an encoding in the image's root.
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(b"appinit" if spelling() == "apptainer" else b"sinit")
    except OSError:
        pass  # --no-mount proc


def _wait_for(child: int) -> int:
    """Reap until ``child`` ends, and pass signals on to it; return its wait status.

    Signals are taken by sigwait(3): handlers of Python interrupt each other, without end where
    a process sends one again and again. Blocked ones stay pending, for a process 1 as well.
    """
    for number in _KEYBOARD:
        _signal.signal(number, _signal.SIG_IGN)
    awaited = (_signal.SIGCHLD, *_FORWARDED)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, awaited)
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)  # before the first sigwait: it may have ended
        if ended == child:
            return status
        if not ended:
            number = _signal.sigwait(awaited)
            if number != _signal.SIGCHLD:
                os.kill(child, number)  # not reaped yet, so its PID is nobody else's


def _end_as(status: int) -> "NoReturn":
    """End as ``status`` says, with an exit status or by a signal: wait(2)."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # the program has dumped core already
        # Nobody may handle that one, so signal(2) refuses it, too.
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (-code,))
    os._exit(code if code >= 0 else 128 - code)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends.

    prctl(2), PR_SET_PDEATHSIG: a change of ids clears it, so it is set once more after that.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _signal.SIGKILL)
