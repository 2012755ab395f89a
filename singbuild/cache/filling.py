"""Executes the steps that fill a tree, from the latest cached snapshot on, and caches each result.

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
from singbuild.cache.snapshot import IMAGE, Entry, Snapshot
from singbuild.console.display import Console
from singbuild.errors import HostError, SectionError
from singbuild.plan.job import Job
from singbuild.steps.step import Facts, TreeStep, Workplace, digest, joined
from singbuild.tree import secrets


@dataclass(frozen=True)
class TreePlan:
    """How one tree is filled.

    snapshots: by the name of the step after which the cache has, or gets, them; key: of the last
    snapshot, which names the finished tree, "" when an input is unknown; may_overlay: a snapshot
    may be several images, which overlayfs(5) lays over each other.
    """

    job: Job
    steps: tuple[TreeStep, ...]
    snapshots: Mapping[str, Snapshot]
    key: str
    may_overlay: bool = False

    @property
    def label(self) -> str:
        """Return what stands before the names of its phases: ``STAGE/``, "" for the image."""
        return f"{self.job.stage}/" if self.job.is_stage else ""

    def cached(self) -> str:
        """Return the latest step whose snapshot is in the cache, "" for none."""
        names = (n for n in reversed([*self.snapshots]) if n != IMAGE)
        whole = not self.may_overlay
        return next((n for n in names if store.exists(self.snapshots[n], whole=whole)), "")

    def waiting(self, done: str) -> tuple[TreeStep, ...]:
        """Return the steps after one that is done; all without one."""
        names = [step.name for step in self.steps]
        return self.steps[names.index(done) + 1 :] if done else self.steps


@dataclass(frozen=True)
class Place:
    """What decides, besides the inputs, which snapshots a build can use.

    one_owner: all files belong to the caller (mode one-id). Programs see that, and may do otherwise
    than where chown(2) works, so the snapshots have keys of their own; may_overlay: as in
    ``TreePlan``.
    """

    one_owner: bool
    may_overlay: bool


def plan_tree(job: Job, steps: Sequence[TreeStep], place: Place, *, use_cache: bool) -> TreePlan:
    """Return how the tree of a job is filled.

    A step with an unknown input gets no snapshot, and no step after it does.
    """
    path = f"{job.plan.recipe.path} stage {job.stage}" if job.is_stage else job.plan.recipe.path
    by_step: dict[str, Snapshot] = {}
    parent = ""
    for step in steps:
        if not step.is_known:
            break
        facts = joined(step.facts, {"privilege": ""}) if place.one_owner else step.facts
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
    return TreePlan(job, tuple(steps), snapshots, parent if is_known else "", place.may_overlay)


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
        if (snapshot := plan.snapshots.get(step.name)) and workplace.is_as_planned:
            _hint_at_splitting(step, snapshot, workplace, began, console)
            _keep(plan.job, step, snapshot, workplace, shell, console)


def _hint_at_splitting(
    step: TreeStep, snapshot: Snapshot, workplace: Workplace, began: float, console: Console
) -> None:
    """Suggest where to split a %post that was executed again, so that its first part is cached."""
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
    """Store a snapshot, unless a variable of its shell holds a secret: the cache would have it."""
    if step.uses_secrets:
        secrets.check_absent(workplace.rootfs.root, job.secrets)
        if secrets.are_in(shell or "", job.secrets):
            console.line(f"A variable holds a secret: the state after {step.name} is not cached.")
            return
    lines = splitting.lines_of(step.whole) if step.whole else ()
    # Others who get it from a registry lack the images below it.
    whole = bool(job.options.cache_to)
    store.store(snapshot, workplace.rootfs, job.epoch, console, shell, lines, whole=whole)


def _restore_snapshot(plan: TreePlan, workplace: Workplace, console: Console) -> Entry | None:
    """Fill the tree from the latest snapshot that is cached, and return that."""
    rootfs = workplace.rootfs
    for name in reversed([*plan.snapshots]):
        if name == IMAGE:
            continue
        with store.cached(
            plan.snapshots[name],
            console,
            plan.label,
            whole=not plan.may_overlay,
            meanwhile=lambda entry: rootfs.mount_layers(entry.images, entry.base),
        ) as entry:
            if entry and rootfs.restore_layers(entry.images, entry.source):
                return entry
            rootfs.unmount_layers()
            if entry is None:
                continue
            store.drop(entry.path)
            raise HostError(
                f"the state after {name} in the cache is of no use here",
                why="It lies over another one, and the kernel's overlay cannot be mounted for it.",
                remedy="Build again: it is dropped.",
            )
    return None


def facts_before(plan: TreePlan, step: str) -> dict[str, str]:
    """Return what goes into the tree before a step, name to digest; "" for after all."""
    before: list[Facts] = []
    for each in plan.steps:
        if each.name == step:
            break
        # Each RUN, and each part of a split %post, has facts of the same names.
        which = f" of {each.name}" if each.name[-1].isdecimal() else ""
        before.append({f"{name}{which}": value for name, value in each.facts.items()})
    return dict(joined(*before))
