"""What becomes of a build whose section failed: a shell in it, or its tree kept for --resume.

The tree is kept in the cache, as an image like any snapshot, but under a key of its recipe's
path alone: there is one for each recipe, and what it was made of is compared when it is
taken up again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from singbuild.cache import steps, store
from singbuild.cache.store import Entry, Snapshot
from singbuild.console.display import Console
from singbuild.errors import SectionError, UsageError
from singbuild.plan.job import Job
from singbuild.plan.plan import Plan
from singbuild.tree import secrets
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.sections import Interactive

NAME = "failed "


@dataclass(frozen=True)
class FailedTree(Snapshot):
    """The tree of a failed section. recipe: absolute path; name: ``NAME`` and the section's name.

    inputs: what went in before that section.
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
def saved(job: Job, rootfs: Rootfs, console: Console) -> Iterator[None]:
    """Save the tree, if the caller wants it, when a section fails in the with-block; say so."""
    try:
        yield
    except SectionError as error:
        if not (job.options.keep and error.section):
            raise
        secrets.check_absent(rootfs.root, job.secrets)
        facts = steps.inputs_before(job, error.section)
        failed = FailedTree(NAME + error.section, _identity(job.plan), facts)
        if store.store(failed, rootfs, job.epoch, console):
            error.remedy = "The tree is kept. Mend the section, then go on there with --resume."
        raise


def restored(job: Job, rootfs: Rootfs) -> str:
    """Fill an empty tree with what the last failed build left; return the section that failed.

    Raises UsageError when there is none, or what went in before that section has changed.
    """
    recipe = job.plan.recipe.path
    entry = _entry(job.plan)
    if entry is None:
        raise UsageError(
            f"there is no failed build of {recipe} to resume",
            why="A build leaves its tree when a section fails under --on-error=keep.",
            remedy="Build without --resume.",
        )
    section = entry.name.removeprefix(NAME)
    changed = store.changed(entry.inputs, steps.inputs_before(job, section))
    if changed:
        raise UsageError(
            f"the failed build of {recipe} cannot be resumed at %{section}",
            why=f"What went in before has changed: {', '.join(changed)}.",
            remedy="Build without --resume.",
        )
    rootfs.restore(entry.path, entry.source)
    return section


def forget(plan: Plan) -> None:
    """Drop what a failed build left, once another succeeded."""
    if entry := _entry(plan):
        store.drop(entry)


def _entry(plan: Plan) -> Entry | None:
    return store.entry(FailedTree("", _identity(plan), {}).key)


def _identity(plan: Plan) -> str:
    return str(Path(plan.recipe.path).absolute())
