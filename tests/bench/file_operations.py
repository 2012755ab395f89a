"""Counts, by strace, what a launch's processes ask of file systems before the program starts."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench.singrun_images import Person, Word

_CALLS = (
    "openat,open,openat2,newfstatat,stat,lstat,statx,readlink,readlinkat,access,faccessat2,"
    "read,pread64"
)
_OPENS = ("open", "openat", "openat2")
_READS = ("read", "pread64")
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")


def counted(person: Person, words: Sequence[Word], program: str) -> Counter[str]:
    """How many "opens", "stats" and "reads" there are until ``program`` is executed.

    program: its path in quotes, as strace writes it. Of all processes.
    """
    with tempfile.NamedTemporaryFile(dir="/var/tmp", mode="r") as trace:
        Path(trace.name).chmod(0o666)
        # Traced, charliecloud's FUSE process outlives the program.
        strace = [
            "timeout",
            "10",
            "strace",
            "-f",
            "-qq",
            "-o",
            trace.name,
            "-e",
            f"trace=execve,{_CALLS}",
        ]
        done = person.call(*strace, *words)
        assert done.returncode == 0, done
        return _sum(trace.read(), program)


def _sum(trace: str, program: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match and match[2] == "execve" and match[3].startswith(program):
            return counts
        if match and match[2] != "execve":
            kind = "opens" if match[2] in _OPENS else "reads" if match[2] in _READS else "stats"
            counts[kind] += 1
    raise AssertionError(f"{program} was not executed")


def interpreter(person: Person, python: str) -> Counter[str]:
    """What the bare interpreter needs, for comparison."""
    words = (python, "-IS", "-c", "import os; os.execv('/bin/true', ['true'])")
    return counted(person, words, '"/bin/true"')
