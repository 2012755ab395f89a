"""The first process of a PID namespace, for --pid. pid_namespaces(7).

Here the program cannot simply take this process' place: somebody must be
process 1 and reap orphans, and somebody outside must wait for it.
"""

import _signal  # type: ignore[import-not-found]  # built in, already loaded; signal itself is dear
import os

from singrun import syscalls

_KEYBOARD = (_signal.SIGINT, _signal.SIGQUIT)  # the terminal sends these to the program itself
_FORWARDED = (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM)


def fork_into_pid_namespace() -> None:
    """Return as process 1 of a new PID namespace; the caller's process waits and ends alike."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    child = os.fork()
    if child:
        _pass_signals_to(child)
        os._exit(_waited(child))
    _die_with_parent()


def fork_and_reap() -> None:
    """Return in a child that will be the program; process 1 reaps until that one ends."""
    _die_with_parent()
    child = os.fork()
    if child:
        _pass_signals_to(child)
        os._exit(_waited(child))


def _pass_signals_to(child: int) -> None:
    """Hand signals on to ``child``."""
    for number in _KEYBOARD:
        _signal.signal(number, _signal.SIG_IGN)
    for number in _FORWARDED:
        _signal.signal(number, lambda received, _frame: os.kill(child, received))


def _waited(child: int) -> int:
    """Reap until ``child`` ends; its exit status, 128 + N for death by signal N."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    """Be killed when the process that waits for us is. prctl(2)."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _signal.SIGKILL)
