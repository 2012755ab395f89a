"""What one build carries from step to step, once its inputs are resolved: a frozen value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from singbuild.contract import Pins, Source
from singbuild.errors import RecipeKeyError
from singbuild.plan import lock as locks
from singbuild.plan.lock import Lock
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan
from singbuild.tree.secrets import Secret

STAGE_KEYS = ("backend", "arch", "epoch", "pins", "files", "tools")  # of a stage, in the lock


@dataclass(frozen=True)
class Job:
    """One build, or one stage of it.

    source, pins: as the backend's hooks get them; lock: all that goes in; stages: the jobs of
    the stages that it needs, in order; is_stage: it is itself such a one.
    """

    plan: Plan
    options: Options
    source: Source
    pins: Pins
    lock: Lock
    stages: tuple[Job, ...] = ()
    is_stage: bool = False

    @property
    def stage(self) -> str:
        """Return the name of its stage."""
        return self.plan.recipe.stage

    @property
    def epoch(self) -> int:
        """Return the date that no file exceeds, in seconds since 1970."""
        return int(self.lock["epoch"])

    @property
    def secrets(self) -> Sequence[Secret]:
        """Return the secrets of %post."""
        return self.options.sections.secrets


def resolved(plan: Plan, options: Options, downloads: Callable[[Plan], Path]) -> Job:
    """Resolve the inputs of a plan and of its stages.

    downloads: returns the directory for a backend's. Raises what the backends' hooks raise,
    and LockError for an input that is not what the lock says.
    """
    wanted = options.locked
    of_stages = wanted.lock.get("stages") if wanted else None
    known: Mapping[str, Any] = of_stages if isinstance(of_stages, dict) else {}
    stages = tuple(
        replace(_resolved(stage, options, downloads, known.get(stage.recipe.stage)), is_stage=True)
        for stage in plan.stages
    )
    job = _resolved(plan, options, downloads, wanted.lock if wanted else None)
    if stages:
        parts = {each.stage: {key: each.lock[key] for key in STAGE_KEYS} for each in stages}
        job = replace(job, stages=stages, lock={**job.lock, "stages": parts})
    if options.writer:
        job = replace(job, lock={**job.lock, "writer": options.writer})
    if wanted:
        # A lock that was made beside the recipe knows of no file that it will be.
        locks.check(wanted, job.lock, job.lock.keys() - ({"writer"} - wanted.lock.keys()))
    return job


def _resolved(
    plan: Plan, options: Options, downloads: Callable[[Plan], Path], wanted: Lock | None
) -> Job:
    pinned = wanted.get("pins") if isinstance(wanted, dict) else None
    source = replace(plan.source, cache=downloads(plan), locked=pinned or {})
    try:
        pins = plan.backend.call("singbuild_resolve", source=source)
    except RecipeKeyError as error:
        raise plan.located(error) from error
    return Job(plan, options, source, pins, locks.make(plan, pins, wanted))
