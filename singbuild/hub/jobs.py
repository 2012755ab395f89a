"""Hands units of a commit to processes: here, or by whatever command starts jobs elsewhere.

Each process is ``singbuild hub image``, which leaves its image in the site's stores. A unit starts
when those that it starts from have ended, whether or not they have an image then.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from singbuild.errors import UsageError
from singbuild.hub.work import Unit
from singrun import syscalls

PLACE = "{}"
"""What ``--submit`` has where the command goes, quoted as one word of a shell."""


def run(
    units: Sequence[Unit], words: Mapping[str, Sequence[str]], *, at_once: int, submit: str = ""
) -> None:
    """Execute the command of each unit, some at once. words: by tag.

    submit: a shell's command line with PLACE in it. An exception ends all of them before it
    goes on, by SIGTERM; their statuses do not matter, since the stores tell what was built.
    """
    if submit and PLACE not in submit:
        raise UsageError(
            f"--submit {submit!r} does not say where the command goes",
            remedy=f"Write {PLACE} there, such as: --submit 'srun sh -c {PLACE}'",
        )
    waiting = {unit.tag: unit for unit in units}
    running: dict[str, subprocess.Popen[bytes]] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                for tag in _ready(waiting, running)[: at_once - len(running)]:
                    del waiting[tag]
                    process = _start(words[tag], submit)
                    running[tag] = process
                    selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, tag)
                for key, _ in selector.select():
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    running.pop(key.data).wait()
        except BaseException:
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()
            raise
        finally:
            for key in [*selector.get_map().values()]:
                os.close(key.fd)


def _ready(waiting: Mapping[str, Unit], running: Mapping[str, object]) -> list[str]:
    unfinished = {*waiting, *running}
    return [tag for tag, unit in waiting.items() if not unfinished & {*unit.bases.values()}]


def _start(words: Sequence[str], submit: str) -> subprocess.Popen[bytes]:
    argv = [*words]
    if submit:
        argv = ["/bin/sh", "-c", submit.replace(PLACE, shlex.quote(shlex.join(words)))]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """Let a process get SIGTERM when its parent dies, by whatever signal."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)


def command(*words: str) -> list[str]:
    """Return the command line of ``singbuild hub`` with some words, by this interpreter."""
    return [sys.executable, "-m", "singbuild", "hub", *words]
