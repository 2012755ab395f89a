"""Compares what steps read of the host with what the lock has: it may have changed meanwhile.

An image's lock has what is in the image. A build that is to keep to a lock is refused; any other
goes on, as with a log beside the recipe that grows, but nothing of it is kept in the cache, whose
keys were made before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from singbuild.plan import lock as locks
from singbuild.plan.job import Job
from singbuild.plan.lock import Lock
from singbuild.steps.step import Workplace


def compare(
    job: Job, workplace: Workplace, planned: Mapping[str, str], digests: Mapping[str, str]
) -> None:
    """Note in the workplace what was read that is not what was planned, and tell.

    planned, digests: of all that a step reads, by its name in the lock. Raises LockError.
    """
    names = planned.keys() & digests.keys()
    if not job.plan.recipe.may_make_files:  # what a script makes is not planned
        names = planned.keys() | digests.keys()
    changes = {n: digests.get(n, "") for n in sorted(names) if planned.get(n) != digests.get(n)}
    if not changes:
        return
    if locked := job.options.locked:
        now: Lock = {"files": _changed(job.lock["files"], changes)}
        if job.is_stage:
            stages = locked.lock["stages"]
            now = {"stages": {**stages, job.stage: {**stages[job.stage], **now}}}
        locks.check(locked, now, now.keys())
    workplace.changes.update(changes)
    workplace.rootfs.report.line(
        f"{', '.join(changes)}: changed while this was built. The image and its lock have what was "
        "copied; nothing of it is cached."
    )


def as_built(job: Job, workplace: Workplace) -> Job:
    """Return the job with a lock of what its steps, and those of its stages, have read."""
    lock = {**job.lock, "files": _changed(job.lock["files"], workplace.changes)}
    for name, tree in workplace.stages.items():
        if tree.changes:
            stage = lock["stages"][name]
            files = _changed(stage["files"], tree.changes)
            lock["stages"] = {**lock["stages"], name: {**stage, "files": files}}
    return replace(job, lock=lock)


def _changed(files: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in sorted({**files, **changes}.items()) if digest}
