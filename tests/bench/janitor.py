"""A janitor waits for a run of the tests, and clears up when the run was killed.

``python -IS janitor.py PID DIRECTORY``: PID is the run's first pytest, DIRECTORY the run's own
(tests.bench.once). A run that ends by itself ends its janitor. SIGKILL lets no process clean up
behind itself, so somebody else has to; ``timeout --kill-after`` kills the whole process group,
which is why the janitor has a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def marked(word: bytes) -> Iterator[int]:
    """Find the processes that have a word, NAME=VALUE, in the environment they were started with.

    Forks keep it, and so do daemons and what runs in a container (proc(5), environ).
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if word in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def end(word: bytes, seconds: float = 30) -> None:
    """Kill the marked processes until none is left: one that was just forked may be missed once."""
    deadline = time.monotonic() + seconds
    while (pids := list(marked(word))) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def clear(run: Path) -> None:
    """End the processes of a run and remove its directories and accounts."""
    end(b"SINGBUILD_TEST_RUN=" + os.fsencode(run))
    for account in pwd.getpwall():
        if account.pw_gecos == run.name:
            subprocess.run(["userdel", "-r", "-f", account.pw_name], capture_output=True)
            for parent in ("/tmp", "/var/tmp"):
                shutil.rmtree(f"{parent}/singrun-{account.pw_uid}", ignore_errors=True)
    for directory in (run, *Path("/var/tmp").glob(f"singbuild-{run.name}-*")):
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    with contextlib.suppress(ProcessLookupError):  # it is over already
        select.select([os.pidfd_open(int(sys.argv[1]))], [], [])  # readable when it has ended
    clear(Path(sys.argv[2]))
