"""Hands units to Slurm: an array of jobs for each level of who starts from whom.

A job is ``singbuild hub image``, which leaves its image in the site's stores. Slurm starts it on
another node when its own is lost. Whoever submitted may be killed meanwhile: the jobs go on, and
the next run of the same commit waits for them before it submits what is missing.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from singbuild import command
from singbuild.console.events import printable
from singbuild.errors import HostError
from singbuild.hub.work import Unit

_LARGEST_ARRAY = 1000  # Slurm's MaxArraySize is 1001 unless a site says otherwise
_PAUSE = 2  # seconds between two questions: slurmctld has others to answer
_TAIL = 5  # lines of a job's output
_PATIENCE = 600  # seconds that slurmctld may not answer
_SCRIPT = """\
#!/bin/sh
# Some sites give each job a directory on a disk of the node.
[ -z "${SLURM_TMPDIR:-}" ] || export SINGBUILD_TMPDIR="$SLURM_TMPDIR"
case $SLURM_ARRAY_TASK_ID in
"""


class Queue:
    """The jobs of one site and commit. logs: a directory that the nodes share."""

    def __init__(self, logs: Path, commit: str, report: Callable[[str], None]) -> None:
        digest = hashlib.sha256(f"{logs} {commit}".encode()).hexdigest()
        self.name = f"hub-{digest[:16]}"
        self.logs, self.report = logs, report

    def run(
        self, units: Sequence[Unit], words: Mapping[str, Sequence[str]], *, at_once: int
    ) -> None:
        """Submit all units and wait until none is in the queue. words: commands, by tag.

        An exception cancels the jobs before it goes on.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            before: list[str] = []
            for level in _levels(units):
                before = [
                    self._submit([words[unit.tag] for unit in part], at_once, before)
                    for part in _parts(level)
                ]
                self.report(f"Slurm: {len(level)} images in the arrays {', '.join(before)}")
            self.wait()
        except BaseException:
            _ask("scancel", f"--name={self.name}")
            raise

    def wait(self) -> bool:
        """Wait until no job is in the queue; return whether there was one.

        Raises HostError when Slurm cannot be asked for long.
        """
        was_there, answered = False, time.monotonic()
        while True:
            done = _ask("squeue", "--noheader", "--me", f"--name={self.name}", "--format=%i")
            if not done.status:
                answered = time.monotonic()
                if not done.tail:
                    return was_there
                was_there = True
            elif time.monotonic() - answered > _PATIENCE:
                raise HostError(
                    "Slurm does not say which jobs are in its queue",
                    why="\n".join(done.tail),
                    remedy="The jobs go on. Give the same command again: it waits for them.",
                )
            time.sleep(_PAUSE)

    def clean(self, *, is_sound: bool) -> None:
        """Remove what the jobs printed; show the ends of it where one left no result."""
        if not is_sound:
            for path in sorted(self.logs.glob("*.log")):
                lines = path.read_text(errors="replace").splitlines()
                self.report("\n".join([f"{path.name}:", *map(printable, lines[-_TAIL:])]))
        shutil.rmtree(self.logs, ignore_errors=True)

    def _submit(self, jobs: Sequence[Sequence[str]], at_once: int, before: Sequence[str]) -> str:
        """Submit an array; return its id. before: arrays that have to end first."""
        cases = (f"{n}) exec {shlex.join(words)} ;;\n" for n, words in enumerate(jobs))
        options = [
            "--parsable",
            "--requeue",
            # A job that is requeued would begin its log anew: sbatch(1).
            "--open-mode=append",
            f"--job-name={self.name}",
            f"--array=0-{len(jobs) - 1}%{at_once}",
            f"--output={self.logs}/%A_%a.log",
            # Not afterok: a job whose base has failed says so itself, in the site's records.
            *([f"--dependency=afterany:{':'.join(before)}"] if before else []),
        ]
        script = self.logs / f"{self.name}.sh"
        script.write_text(f"{_SCRIPT}{''.join(cases)}esac\n")
        done = command.checked(_ask("sbatch", *options, str(script)))
        # Where there are several clusters, --parsable prints ID;CLUSTER: sbatch(1).
        return done.tail[-1].partition(";")[0]


def _ask(*words: str) -> command.Completed:
    """Execute a command of Slurm's with the caller's variables, such as SBATCH_PARTITION."""
    return command.call(words, env=os.environ, package="slurm-client")


def _levels(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Divide units, which are in the order of building, so that none starts from one beside it."""
    depths: dict[str, int] = {}
    for unit in units:
        depths[unit.tag] = 1 + max((depths.get(tag, 0) for tag in unit.bases.values()), default=0)
    for depth in sorted(set(depths.values())):
        yield [unit for unit in units if depths[unit.tag] == depth]


def _parts(level: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    for start in range(0, len(level), _LARGEST_ARRAY):
        yield level[start : start + _LARGEST_ARRAY]
