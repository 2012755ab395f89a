"""What a run of the tests builds once, whichever of its processes needs it first.

The first pytest of a run makes a directory that every user may read, and names it in the
environment: so the workers of pytest-xdist, which are its children, find the same one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.host import OWN_PROCESSES, VARIABLE

JANITOR = Path(__file__).with_name("janitor.py")


@contextlib.contextmanager
def directory_of_the_run() -> Iterator[None]:
    """Make the directory, for the time of a with-block, unless a parent process has made one."""
    if VARIABLE in os.environ:
        yield
        return
    path = Path(tempfile.mkdtemp(prefix="tests-run-"))
    path.chmod(0o755)
    argv = [sys.executable, "-IS", str(JANITOR), str(os.getpid()), str(path)]
    none = subprocess.DEVNULL
    janitor = subprocess.Popen(argv, stdin=none, stdout=none, stderr=none, start_new_session=True)
    OWN_PROCESSES.add(janitor.pid)
    os.environ[VARIABLE] = str(path)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        shutil.rmtree(path)
        janitor.kill()
        janitor.wait()


def once(name: str, build: Callable[[Path], object]) -> Path:
    """Return the directory ``name`` of the run, filled by the first who comes; others wait for it.

    A build that fails leaves nothing, so that the next test tries again and tells why. Nobody may
    change what lies there.
    """
    base = Path(os.environ[VARIABLE])
    place = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / f"{name}.done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            build(place)
            (base / f"{name}.done").touch()
    return place
