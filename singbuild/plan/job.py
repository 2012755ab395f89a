"""What one build carries from step to step, once its inputs are resolved: a frozen value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from singbuild.contract import Pins, Source
from singbuild.dockerfile.actions import Copy, Evaluation, Run
from singbuild.dockerfile.evaluation import evaluate
from singbuild.dockerfile.files import digests as context_digests
from singbuild.errors import RecipeKeyError
from singbuild.plan import lock as locks
from singbuild.plan import policy
from singbuild.plan.lock import Lock
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan
from singbuild.tree.secrets import Secret

STAGE_KEYS = ("backend", "arch", "epoch", "pins", "files", "tools")  # of a stage, in the lock


@dataclass(frozen=True)
class Job:
    """One build, or one stage of it.

    source, pins: as the backend's hooks get them; lock: all that goes in; stages: the jobs of
    the stages that it needs, in order; is_stage: it is itself such a one;
    evaluation: of a Dockerfile's instructions.
    """

    plan: Plan
    options: Options
    source: Source
    pins: Pins
    lock: Lock
    stages: tuple[Job, ...] = ()
    is_stage: bool = False
    evaluation: Evaluation | None = None

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
        return self.options.section_options.secrets


def resolve(plan: Plan, options: Options, downloads: Callable[[Plan], Path]) -> Job:
    """Resolve the inputs of a plan and of its stages.

    downloads: returns the directory for a backend's. Raises what the backends' hooks raise,
    and LockError for an input that is not what the lock says.
    """
    wanted_lock = options.locked
    of_stages = wanted_lock.lock.get("stages") if wanted_lock else None
    stage_locks: Mapping[str, Any] = of_stages if isinstance(of_stages, dict) else {}
    stages: tuple[Job, ...] = ()
    for each in plan.stages:
        stage = _resolve(each, options, downloads, stage_locks.get(each.recipe.stage), stages)
        stages = (*stages, replace(stage, is_stage=True))
    job = _resolve(plan, options, downloads, wanted_lock.lock if wanted_lock else None, stages)
    if stages:
        parts = {each.stage: {key: each.lock[key] for key in STAGE_KEYS} for each in stages}
        job = replace(job, stages=stages, lock={**job.lock, "stages": parts})
    if options.writer:
        job = replace(job, lock={**job.lock, "writer": options.writer})
    if wanted_lock:
        # `singbuild lock` knows no target, so its lock has no key "writer"; an image's lock has.
        locks.check(wanted_lock, job.lock, job.lock.keys() - ({"writer"} - wanted_lock.lock.keys()))
    return job


def _resolve(
    plan: Plan,
    options: Options,
    downloads: Callable[[Plan], Path],
    wanted_lock: Lock | None,
    before: Sequence[Job],
) -> Job:
    """Resolve the inputs of one stage. before: the stages before it."""
    pinned = wanted_lock.get("pins") if isinstance(wanted_lock, dict) else None
    source = replace(plan.source, cache=downloads(plan), locked=pinned or {})
    base = next((each for each in before if each.stage == plan.recipe.base), None)
    try:
        if base or plan.recipe.base:
            pins: Pins = base.pins if base else {}
        else:
            pins = plan.backend.call("singbuild_resolve", source=source)
    except RecipeKeyError as error:
        raise plan.located(error) from error
    job = Job(plan, options, source, pins, locks.make(plan, pins, wanted_lock))
    return _evaluate(job, base) if plan.recipe.is_dockerfile else job


def _evaluate(job: Job, base: Job | None) -> Job:
    """Evaluate a Dockerfile's instructions; the lock gets what they read of the context."""
    plan, recipe = job.plan, job.plan.recipe
    config: Mapping[str, Any] = {}
    if base and base.evaluation:
        config = base.evaluation.config
    elif not recipe.base:
        call = plan.backend.call
        config = call("singbuild_configuration", source=job.source, pins=job.pins) or {}
    result = evaluate(recipe, config, plan.source.arch, plan.source.report.line)
    for action in result.actions:
        if isinstance(action, Copy):
            policy.check_downloads(recipe, action)
    files = {
        name: digest
        for action in result.actions
        if isinstance(action, Copy | Run)
        for name, digest in context_digests(recipe, action, job.source)
    }
    return replace(job, evaluation=result, lock={**job.lock, "files": files})
