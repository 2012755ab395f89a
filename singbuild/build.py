"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks, opens what is to be cleaned up, and waits; ``_work`` does the
building in namespaces of its own, which end with it.
"""

from __future__ import annotations

import os
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path

from singbuild import workspace
from singbuild.backends import extensions
from singbuild.cache import filling, resume, store
from singbuild.cache.filling import Filling
from singbuild.console import faults
from singbuild.console.display import Console
from singbuild.contract import Defaults
from singbuild.errors import EXIT_BUG, SingbuildError
from singbuild.ext3.writer import seal
from singbuild.plan import lock, preflight
from singbuild.plan.job import Job, resolved
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan, recorded
from singbuild.privilege import modes, namespace
from singbuild.stages import StageError, Stages
from singbuild.steps import definition
from singbuild.steps.step import Site
from singbuild.tree import metadata, normalise, scratch, secrets, sections
from singbuild.tree.rootfs import Rootfs
from singbuild.workshop import Workshop

WITHOUT_LOG = (0, *(128 + number for number in namespace.ENDING))


def build(plan: Plan, target: Path, options: Options, console: Console) -> int:
    """Build an image and return the exit status; what goes wrong is told on the console.

    The target is the old file or the new one, never half of one.
    """
    try:
        target = workspace.resolved(target)
        choice = modes.choose(options.privilege)
        preflight.check(plan, target, choice, force=options.force, test=options.test)
        site = extensions.load(console)
        about = plan.build(target, locked=options.locked is not None)
        for each in (*about.stages, about):
            site.check(each)
        site.started(about)
        with (
            workspace.scratch_directory() as work,
            workspace.part_file(target) as part,
            workspace.log_file(target) as log,
        ):
            console.log = log.file
            shop = Workshop(work, console, choice, log.path)
            job = _Work(plan, options, console, shop, part, target)
            status = namespace.run(job.run, choice.ids, shop.recorder(), shop.without())
            if status == 128 + signal.SIGKILL:
                console.error(faults.KILLED, log.path)
                status = faults.KILLED.status
            if status == 0 and options.replaced:
                part.take_over(options.replaced)
            console.log = None
            log.keep = status not in WITHOUT_LOG
        site.finished(about, status, console.seconds)
        return status
    except (SingbuildError, OSError) as error:
        told = faults.explained(error, plan, ())
        console.error(told, None)
        return told.status


@dataclass(frozen=True)
class _Work:
    """One build in its namespaces."""

    plan: Plan
    options: Options
    console: Console
    shop: Workshop
    part: workspace.Part
    target: Path

    def run(self) -> int:
        """Build; return the exit status."""
        with self.console:
            try:
                self._build()
            except (SingbuildError, OSError) as error:
                told = faults.explained(error, self.plan, (self.shop.work, self.target.parent))
                self.console.error(told, self.shop.log)
                return told.status
            except StageError as failed:
                return failed.status
            except Exception as error:
                traceback.print_exc()
                self.console.error(faults.bug(error), self.shop.log)
                return EXIT_BUG
            except namespace.Terminated:
                self.console.warn("interrupted; nothing is left behind")
                raise
        return 0

    def _build(self) -> None:
        plan = self.plan
        stages = [f"{p.recipe.stage}/{s.name}" for p in plan.stages for s in p.steps]
        names = [each.name for each in plan.steps if self.options.test or each.name != "test"]
        self.console.start(plan.recipe.path, str(self.target), [*stages, *names])
        self.shop.tell()
        self._phase("resolve")
        job = resolved(plan, self.options, self.shop.downloads)
        if self.options.resume:
            resume.check_there(job)
        mask = os.umask(0o022)  # the caller's has no say in what the image holds
        *earlier, tree = self._fillings(job)
        if not self._taken_from_cache(tree):
            self._make(tree, earlier)
        self._phase("finish")
        self.part.chmod(0o777 & ~mask)
        workspace.rename_into_place(self.part, self.target, replace=self.options.force)
        resume.forget(job)
        self.console.done(str(self.target), self.target.stat().st_size)

    def _fillings(self, job: Job) -> list[Filling]:
        """Return how each tree is filled: those of the stages, and the image's."""
        keys: dict[str, str] = {}
        found = []
        for each in (*job.stages, job):
            # A resumed tree may hold what the failed run left.
            is_resumed = self.options.resume and (each is job or resume.is_there(each))
            use_cache = self.options.use_cache and not is_resumed
            steps = definition.steps(each, keys)
            one_owner = self.shop.has_one_owner
            found.append(filling.filling(each, steps, one_owner=one_owner, use_cache=use_cache))
            keys[each.stage] = found[-1].key
        return found

    def _taken_from_cache(self, tree: Filling) -> bool:
        """Whether the very image was built before; then the part file holds it."""
        image = tree.snapshots.get(filling.IMAGE)
        entry = store.find(image, self.console) if image else None
        try:
            if entry:
                self.part.copy_from(entry.path)
        except OSError as error:  # another build made room meanwhile
            self.console.warn(f"the cached image cannot be read: {error}")
            return False
        return entry is not None

    def _make(self, tree: Filling, others: list[Filling]) -> None:
        """Build the stages; fill a scratch, complete it, and seal it into the part file."""
        stages = Stages(self.shop, {each.job.stage: each for each in others})
        if others:
            self._phase("stages")
            stages.build(tree)
        self._phase("scratch")
        with self.shop.rootfs(self.shop.work, tree.job.epoch) as rootfs:
            with resume.saved(tree, rootfs, self.console):
                self._fill(tree, Site(rootfs, self.shop.work, stages.trees))
            self._seal(tree.job, rootfs)
        if image := tree.snapshots.get(filling.IMAGE):
            store.store_image(image, self.part, self.console)

    def _fill(self, tree: Filling, site: Site) -> None:
        """Do all steps that work on the tree."""
        job, rootfs, options = tree.job, site.rootfs, self.options
        recipe, call = job.plan.recipe, job.plan.backend.call
        begin = (resume.restored(tree, rootfs) if options.resume else None) or ("", "")
        if options.onto:
            rootfs.is_foreign = True
            rootfs.unpack_image(options.onto)
        filling.fill(tree, site, self.console, *begin)
        defaults = call("singbuild_defaults", source=job.source, pins=job.pins, rootfs=rootfs)
        self._phase("metadata")
        metadata.write(rootfs, recipe, defaults or Defaults(), self._records(job, rootfs))
        sections.check_shell_text(recipe, rootfs)
        if options.test and "test" in recipe.sections:
            self._phase("test")
            sections.test(recipe, rootfs, options.sections)

    def _records(self, job: Job, rootfs: Rootfs) -> dict[str, str]:
        """Return the files that tell of the build, name to text."""
        plan, options = job.plan, job.options
        # What %post installed is known only now.
        complete = {**job.lock, "packages": lock.installed(rootfs)}
        if options.locked and "packages" in options.locked.lock:
            lock.check(options.locked, complete, ("packages",))
        how = recorded(plan, tested=options.test, free=options.free, resumed=options.resume)
        return {
            "lock.yaml": lock.dumped(complete, Path(plan.recipe.path).name),
            "build.json": how,
        }

    def _seal(self, job: Job, rootfs: Rootfs) -> None:
        """Write the tree into the part file."""
        self._phase("seal")
        root, options = rootfs.root, job.options
        normalise.normalise(rootfs, job.epoch, indices=options.shape.size > 0)
        secrets.check_absent(root, job.secrets)
        with scratch.written_back(root):
            seal.seal(
                root,
                self.part.path,
                epoch=job.epoch,
                free=options.free,
                shape=options.shape,
                owners=rootfs.wished(tell=True),
                times=rootfs.baseline.times(root),
                on_progress=self._sealing,
            )

    def _phase(self, name: str) -> None:
        self.console.phase(name, self.plan.reason(name))

    def _sealing(self, done: int, total: int) -> None:
        self.console.progress("bytes", done, total)
