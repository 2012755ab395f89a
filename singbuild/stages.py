"""Builds the earlier stages of a recipe that its later ones need, each in a scratch of its own.

    stage ─▶ scratch ─▶ its steps ─▶ the image of its tree ─▶ %files from STAGE

A stage that is not copied from is not built, nor one whose copies are in a snapshot of the cache.
Those that depend on none of the others are built at the same time, in process and mount
namespaces of their own, within those of the build: they end with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.cache import filling, resume, store
from singbuild.cache.filling import Start, TreePlan
from singbuild.cache.snapshot import Entry
from singbuild.console import faults
from singbuild.errors import RecipeKeyError, SingbuildError
from singbuild.ext3.writer import seal
from singbuild.privilege import namespace
from singbuild.steps.step import StageTree, Workplace
from singbuild.tree import scratch
from singbuild.tree.rootfs import Rootfs
from singbuild.workshop import Workshop


class StageError(Exception):
    """A stage failed, and its error has been shown. status: the exit status of the build."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Stages:
    """The stages of one build. tree_plans: of each stage, by its name, in the recipe's order."""

    workshop: Workshop
    tree_plans: Mapping[str, TreePlan]
    trees: dict[str, StageTree] = field(default_factory=dict)

    def needed_by(self, tree: TreePlan) -> dict[str, set[str]]:
        """Return the stages that have to be there before a tree can be filled, in order.

        Each has the names of those that its own steps read.
        """
        names, needs = _read_by(tree), dict[str, set[str]]()
        for name in reversed([*self.tree_plans]):  # a stage reads earlier ones alone
            if name in names:
                needs[name] = _read_by(self.tree_plans[name])
                names |= needs[name]
        return dict(reversed(needs.items()))

    def build(self, tree: TreePlan) -> None:
        """Build the stages that a tree needs. Raises StageError; what their steps raise."""
        needs = self.needed_by(tree)
        waiting = [*needs]
        # A shell in a failed build has the terminal to itself; in a chroot alone nobody tells the
        # processes of one stage from those of another.
        rescue = tree.job.options.section_options.rescue
        if rescue or not self.workshop.may_nest or len(waiting) == 1:
            for name in waiting:
                self._make(name)
                self._note_tree(name)
            return
        running: dict[int, tuple[str, threading.Thread]] = {}
        try:
            while waiting or running:
                ready = [name for name in waiting if needs[name] <= self.trees.keys()]
                for name in ready:
                    waiting.remove(name)
                    pid, relay = self._start_process(name)
                    running[pid] = name, relay
                pid, status = os.waitpid(-1, 0)
                if pid not in running:
                    continue  # one that a section left and this process adopted
                name, relay = running.pop(pid)
                relay.join()
                if code := os.waitstatus_to_exitcode(status):
                    raise StageError(code if code > 0 else 128 - code)
                self._note_tree(name)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _note_tree(self, name: str) -> None:
        note = json.loads(self._image(name).with_suffix(".json").read_text())
        self.trees[name] = StageTree(self._image(name), **note)

    def _image(self, name: str) -> Path:
        return self._work(name) / "tree.img"

    def _work(self, name: str) -> Path:
        return self.workshop.scratch / "stages" / str([*self.tree_plans].index(name))

    def _start_process(self, name: str) -> tuple[int, threading.Thread]:
        """Build a stage in a process that ends with this one.

        Returns its id, and the thread that repeats its events on this process's console.
        """
        console = self.workshop.console
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            console.relay(writing)
            os._exit(namespace.nested(lambda: self._status(name)))
        os.close(writing)
        relay = threading.Thread(target=console.repeat, args=(reading,), daemon=True)
        relay.start()
        return pid, relay

    def _status(self, name: str) -> int:
        """Make a stage; show what goes wrong, and return the exit status."""
        try:
            self._make(name)
        except (SingbuildError, OSError, MemoryError) as error:
            plan, places = self.tree_plans[name].job.plan, (self.workshop.scratch,)
            explained = faults.explained(error, plan, places)
            self.workshop.console.error(explained, self.workshop.log)
            return explained.status
        return 0

    def _make(self, name: str) -> None:
        """Make the image of a stage's tree: out of the cache, or by its steps."""
        tree, shop = self.tree_plans[name], self.workshop
        work, last = self._work(name), tree.steps[-1].name
        work.mkdir(parents=True)
        if tree.cached() == last:
            with store.cached(tree.snapshots[last], shop.console, tree.label) as entry:
                if self._link_cached(entry, name):
                    return
        with shop.rootfs(work, tree.job.epoch) as rootfs:
            workplace = Workplace(rootfs, work, self.trees)
            with resume.saving_on_failure(tree, workplace, shop.console):
                try:
                    filling.fill(tree, workplace, shop.console, _start(tree, rootfs))
                except RecipeKeyError as error:
                    raise tree.job.plan.located(error) from error
            if last in tree.snapshots and workplace.is_as_planned:
                with store.opened(tree.key) as entry:
                    if self._link_cached(entry, name):
                        return
            with scratch.flushing_in_background(rootfs.root):
                times = rootfs.baseline.times(rootfs.root)
                owners, epoch = rootfs.recorded_owners(), tree.job.epoch
                seal.seal(rootfs.root, self._image(name), epoch=epoch, owners=owners, times=times)
            self._note(name, rootfs.baseline.saved(rootfs.root), workplace.changes)

    def _note(
        self, name: str, source: Mapping[str, bool], changes: Mapping[str, str] | None = None
    ) -> None:
        """Write which entries of a tree are its source's, for the process that builds the image."""
        note = {"source": dict(source), "changes": dict(changes or {})}
        self._image(name).with_suffix(".json").write_text(json.dumps(note))

    def _link_cached(self, entry: Entry | None, name: str) -> bool:
        """Make a stage's image of a cache entry, by link(2) or copy; return whether it could be.

        It cannot where there is no entry, or where that lies over others.
        """
        if entry is None or entry.onto:
            return False
        work = os.open(self._work(name), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        image = self._image(name)
        try:
            os.link(entry.image, image.name, dst_dir_fd=work, follow_symlinks=True)
        except OSError:  # another file system, or another build made room meanwhile
            shutil.copyfile(entry.image, image)
        finally:
            os.close(work)
        self._note(name, entry.source)
        return True


def _read_by(tree: TreePlan) -> set[str]:
    """Return the stages that the steps read which a tree still waits for."""
    return {name for step in tree.waiting(tree.cached()) for name in step.stages}


def _start(tree: TreePlan, rootfs: Rootfs) -> Start:
    """Return where to start: after the latest snapshot, or with --resume at the failed step."""
    return resume.restore(tree, rootfs) if tree.job.options.resume else filling.FROM_SNAPSHOT
