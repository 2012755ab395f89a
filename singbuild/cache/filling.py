"""Fills a tree step by step, from the latest snapshot in the cache on, and keeps it after each.

A snapshot's key is a digest of what goes into its step and of the key before it, so whatever
changes, changes the keys of all that follows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from singbuild.cache import splitting, store
from singbuild.cache.store import Entry, Snapshot
from singbuild.console.display import Console
from singbuild.errors import HostError, SectionError
from singbuild.plan.job import Job
from singbuild.steps.step import TreeStep, Workplace, digest
from singbuild.tree import secrets

IMAGE = "image"  # the snapshot that is the finished image


@dataclass(frozen=True)
class TreePlan:
    """How one tree is filled. snapshots: after its steps, by step's name; found or stored.

    key: of the last snapshot, which names the finished tree; "" when not all that goes in is known;
    lays: whether a snapshot may be several images, one over the other.
    """

    job: Job
    steps: tuple[TreeStep, ...]
    snapshots: Mapping[str, Snapshot]
    key: str
    lays: bool = False

    @property
    def label(self) -> str:
        """Return what stands before the names of its phases: ``STAGE/``, "" for the image."""
        return f"{self.job.stage}/" if self.job.is_stage else ""

    def cached(self) -> str:
        """Return the latest step whose snapshot is in the cache, "" for none."""
        names = (n for n in reversed([*self.snapshots]) if n != IMAGE)
        whole = not self.lays
        return next((n for n in names if store.exists(self.snapshots[n], whole=whole)), "")

    def waiting(self, done: str) -> tuple[TreeStep, ...]:
        """Return the steps after one that is done; all without one."""
        names = [step.name for step in self.steps]
        return self.steps[names.index(done) + 1 :] if done else self.steps


@dataclass(frozen=True)
class Place:
    """What of the place where trees are made has a say in their snapshots.

    one_owner: programs see their own owners there, so their trees are snapshots of their own;
    lays: as ``TreePlan`` has it.
    """

    one_owner: bool
    lays: bool


def plan_tree(job: Job, steps: Sequence[TreeStep], place: Place, *, use_cache: bool) -> TreePlan:
    """Return how the tree of a job is filled.

    A step of which not all that goes in is known is not kept, nor what comes after it.
    """
    path = f"{job.plan.recipe.path} stage {job.stage}" if job.is_stage else job.plan.recipe.path
    by_step: dict[str, Snapshot] = {}
    parent = ""
    for step in steps:
        if not step.is_known:
            break
        facts = {**step.facts, "privilege": ""} if place.one_owner else step.facts
        by_step[step.name] = Snapshot(step.name, path, facts, parent)
        parent = by_step[step.name].key
    is_known = all(step.is_known for step in steps)
    if is_known and not job.is_stage:
        about = [Path(job.plan.recipe.path).name, job.plan.recipe.text, job.stage]
        facts = {"recipe": digest(about)}
        more = (*job.options.finish.items(), *job.lock.items())
        facts |= {name: digest(value) for name, value in more}
        facts |= {"privilege": ""} if place.one_owner else {}
        by_step[IMAGE] = Snapshot(IMAGE, path, facts, parent)
    snapshots = by_step if use_cache else {}
    return TreePlan(job, tuple(steps), snapshots, parent if is_known else "", place.lays)


class Start(NamedTuple):
    """Where filling a tree starts. step: the first to do; shell: its state before that step."""

    step: str
    shell: str


FROM_SNAPSHOT = Start("", "")  # after the latest step whose snapshot is in the cache


def fill(
    plan: TreePlan, workplace: Workplace, console: Console, start: Start = FROM_SNAPSHOT
) -> None:
    """Do the steps of a tree from ``start`` on.

    Raises what the steps raise; a SectionError knows its step.
    """
    shell: str | None = start.shell
    if start.step:
        names = [step.name for step in plan.steps]
        # %test is no step of a tree: when that failed, all of them are done.
        waiting = plan.steps[names.index(start.step) :] if start.step in names else ()
    else:
        entry = _restore_snapshot(plan, workplace, console)
        waiting = plan.waiting(entry.name if entry else "")
        shell = entry.shell if entry else ""
    for step in waiting:
        console.phase(plan.label + step.name, step.reason)
        began = time.monotonic()
        try:
            shell = step.execute(workplace, shell)
        except SectionError as error:
            error.step, error.state = step.name, shell or ""
            raise
        if snapshot := plan.snapshots.get(step.name):
            _tell_of_splitting(step, snapshot, workplace, began, console)
            _keep(plan.job, step, snapshot, workplace, shell, console)


def _tell_of_splitting(
    step: TreeStep, snapshot: Snapshot, workplace: Workplace, began: float, console: Console
) -> None:
    """Say where a %post that was executed again would best have been two."""
    other = store.before(snapshot) if step.whole else None
    if step.whole and other and other.lines:
        read = {line: seconds - began for line, seconds in workplace.began.items()}
        seconds = time.monotonic() - began
        if text := splitting.hint(step.whole, other.lines, read, seconds):
            console.line(text)


def _keep(
    job: Job,
    step: TreeStep,
    snapshot: Snapshot,
    workplace: Workplace,
    shell: str | None,
    console: Console,
) -> None:
    """Keep a tree, unless the variables of its shell hold a secret: they would lie in the cache."""
    if step.uses_secrets:
        secrets.check_absent(workplace.rootfs.root, job.secrets)
        if secrets.are_in(shell or "", job.secrets):
            console.line(f"A variable holds a secret: the state after {step.name} is not cached.")
            return
    lines = splitting.lines_of(step.whole) if step.whole else ()
    whole = bool(job.options.cache_to)  # others have not what it would lie over
    store.store(snapshot, workplace.rootfs, job.epoch, console, shell, lines, whole=whole)


def _restore_snapshot(plan: TreePlan, workplace: Workplace, console: Console) -> Entry | None:
    """Fill the tree from the latest snapshot that is cached, and return that."""
    for name in reversed([*plan.snapshots]):
        if name == IMAGE:
            continue
        entry = store.find(plan.snapshots[name], console, plan.label, whole=not plan.lays)
        if entry and workplace.rootfs.restore_layers(entry.images, entry.source, entry.key):
            return entry
        if entry:
            store.drop(entry.path)
            raise HostError(
                f"the state after {name} in the cache is of no use here",
                why="It lies over another one, and the kernel's overlay cannot be mounted for it.",
                remedy="Build again: it is dropped.",
            )
    return None


def facts_before(plan: TreePlan, step: str) -> dict[str, str]:
    """Return what goes into the tree before a step, name to digest; "" for after all."""
    before = []
    for each in plan.steps:
        if each.name == step:
            break
        before.append(each)
    return {
        # Each part of %post has a fact of that name.
        f"{name} of {each.name}" if each.name.startswith("post-") else name: value
        for each in before
        for name, value in each.facts.items()
    }
