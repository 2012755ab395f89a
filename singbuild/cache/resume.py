"""A build whose section failed: opens a shell in it, or saves its tree for --resume.

The tree is kept in the cache, as an image like any snapshot, but under a key of its recipe's
path (and stage) alone: there is one for each, and what it was made of is compared when it is
taken up again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from singbuild.cache import filling, store
from singbuild.cache.filling import Start, TreePlan
from singbuild.cache.snapshot import Entry, Snapshot
from singbuild.console.display import Console
from singbuild.errors import SectionError, UsageError
from singbuild.plan.job import Job
from singbuild.steps import definition
from singbuild.steps.step import Workplace
from singbuild.tree import secrets
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.sections import Interactive

NAME = "failed "


@dataclass(frozen=True)
class FailedTree(Snapshot):
    """The tree of a failed section. recipe: absolute path; name: ``NAME`` and the step's name.

    inputs: what went in before that step.
    """

    @property
    def key(self) -> str:
        """The name of the entry, the same for every failure of a recipe."""
        name = f"{NAME}{self.recipe}".encode(errors="backslashreplace")
        return hashlib.sha256(name).hexdigest()[:32]


@dataclass(frozen=True)
class Shell:
    """Opens a shell in a failed build. console: whose terminal it gets."""

    console: Console

    def __call__(self, error: SectionError, execute: Interactive) -> None:
        """Tell what failed, and execute a shell in the place and the environment of the section."""
        self.console.warn(
            f"{error.what}\nThis is a shell in the failed build; the build ends when you leave it."
        )
        with self.console.paused():
            execute({"TERM": os.environ.get("TERM", "dumb"), "PS1": f"%{error.section}> "})


@contextlib.contextmanager
def saving_on_failure(plan: TreePlan, workplace: Workplace, console: Console) -> Iterator[None]:
    """Save the tree, if the caller wants it, when a section fails in the with-block; say so."""
    job, rootfs = plan.job, workplace.rootfs
    try:
        yield
    except SectionError as error:
        of_stages = any(tree.changes for tree in workplace.stages.values())
        if of_stages or not (job.options.keep and error.section):
            raise
        secrets.check_absent(rootfs.root, job.secrets)
        state = error.state
        if secrets.are_in(state, job.secrets):
            raise
        facts = _facts(plan, error.step) | workplace.changes
        failed = FailedTree(NAME + error.step, _identity(job), facts)
        if store.store(failed, rootfs, job.epoch, console, state, whole=True, newest=True):
            error.remedy = "The tree is kept. Fix the section, then continue with --resume."
        raise


def restore(plan: TreePlan, rootfs: Rootfs) -> Start:
    """Fill an empty tree with what the last failed build left.

    Returns the step that failed, FROM_SNAPSHOT when there is no such tree. Raises UsageError when
    what went in before that step has changed.
    """
    with _opened(plan.job) as entry:
        if entry is None:
            return filling.FROM_SNAPSHOT
        step = entry.name.removeprefix(NAME)
        changed = store.changed(entry.inputs, _facts(plan, step))
        if changed:
            recipe = plan.job.plan.recipe.path
            raise UsageError(
                f"the failed build of {recipe} cannot be resumed at %{step}",
                why=f"What went in before has changed: {', '.join(changed)}.",
                remedy="Build without --resume.",
            )
        rootfs.restore(entry.image, entry.source)
        return Start(step, entry.shell or "")


def has_saved_tree(job: Job) -> bool:
    """Whether a failed build of a job left its tree."""
    with _opened(job) as entry:
        return entry is not None


def check_saved_tree(job: Job) -> None:
    """Refuse to resume where no build has failed. Raises UsageError."""
    if not any(map(has_saved_tree, (*job.stages, job))):
        raise UsageError(
            f"there is no failed build of {job.plan.recipe.path} to resume",
            why="A build leaves its tree when a section fails under --on-error=keep.",
            remedy="Build without --resume.",
        )


def forget(job: Job) -> None:
    """Drop what failed builds left, once another succeeded."""
    for each in (*job.stages, job):
        with _opened(each) as entry:
            if entry:
                store.drop(entry.path)


def _opened(job: Job) -> contextlib.AbstractContextManager[Entry | None]:
    return store.opened(FailedTree("", _identity(job), {}).key)


def _facts(plan: TreePlan, step: str) -> dict[str, str]:
    """Return what goes into the tree before a step, name to digest."""
    more = definition.facts_before_test(plan.job) if step == "test" else {}
    return filling.facts_before(plan, step) | dict(more)


def _identity(job: Job) -> str:
    path = str(Path(job.plan.recipe.path).absolute())
    return f"{path} stage {job.stage}" if job.is_stage else path
