"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks the plan, opens the scratch directory, the part file and the log, starts the
worker and waits for it. ``_Worker.run`` builds in namespaces; no process there outlives singbuild.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from singbuild import about, sandbox, workspace
from singbuild.backends import extensions
from singbuild.cache import filling, remote, resume, snapshot, store
from singbuild.cache.filling import TreePlan
from singbuild.console import faults
from singbuild.console.display import Console
from singbuild.errors import EXIT_BUG, SingbuildError
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer import seal
from singbuild.formats import loading
from singbuild.formats.loading import Kind
from singbuild.plan import lock, policy, preflight
from singbuild.plan.job import Job, resolve
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan, build_record
from singbuild.privilege import modes, namespace
from singbuild.stages import StageError, Stages
from singbuild.steps import definition, dockerfile, inputs
from singbuild.steps.step import Workplace
from singbuild.tree import metadata, normalise, permissions, secrets, sections
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.scratch import flushing_in_background
from singbuild.workshop import Workshop

STATUSES_WITHOUT_LOG = (0, *(128 + number for number in namespace.ENDING_SIGNALS))


def build(plan: Plan, target: Path, options: Options, console: Console) -> int:
    """Build an image and return the exit status; the console shows errors.

    The target is the old file or the new one, never half of one.
    """
    try:
        target = workspace.resolved(target)
        choice = modes.choose(options.privilege)
        kind = loading.chosen(target, options.format)
        policy.check(plan, options)
        preflight.check(plan, target, choice, kind, force=options.force, test=options.test)
        options = replace(options, writer=kind.writer())
        site_extensions = extensions.load(console)
        build_facts = plan.as_build(target, options.command, locked=options.locked is not None)
        site_extensions.check(build_facts)
        site_extensions.announce_start(build_facts)
        with (
            workspace.scratch_directory() as scratch,
            workspace.part_file(scratch / "image" if kind.format.directory else target) as part,
            workspace.log_file(target) as log,
        ):
            console.log = log.file
            workshop = Workshop(scratch, console, choice, log.path)
            worker = _Worker(plan, options, console, workshop, part, target, kind)
            drop = workshop.dropped_capabilities()
            status = namespace.run(worker.run, choice.ids, workshop.recorder(), drop)
            # A directory target is written outside the namespaces: the caller owns its files.
            if status == 0 and kind.format.directory:
                with Image(part.file) as tree:
                    sandbox.write(target, tree, kind, console, replace=options.force)
            if status == 128 + signal.SIGKILL:
                console.error(faults.KILLED, log.path)
                status = faults.KILLED.status
            if status == 0 and options.replaced_image:
                part.copy_owner_and_mode_from(options.replaced_image)
            console.log = None  # the log is closed after this block; the console is still used
            if status in STATUSES_WITHOUT_LOG:
                log.remove()
        site_extensions.announce_end(build_facts, status, console.seconds)
        return status
    except (SingbuildError, OSError, MemoryError) as error:
        console.log = None
        explained = faults.explained(error, plan)
        console.error(explained, None)
        return explained.status


@dataclass(frozen=True)
class _Worker:
    """One build in its namespaces."""

    plan: Plan
    options: Options
    console: Console
    workshop: Workshop
    part: workspace.Part
    target: Path
    kind: Kind

    def run(self) -> int:
        """Build; return the exit status."""
        with self.console:
            try:
                self._build()
            except (SingbuildError, OSError, MemoryError) as error:
                places = self.workshop.scratch, self.target.parent
                explained = faults.explained(error, self.plan, places)
                self.console.error(explained, self.workshop.log)
                return explained.status
            except StageError as error:
                return error.status
            except Exception as error:
                traceback.print_exc()
                self.console.error(faults.bug(error), self.workshop.log)
                return EXIT_BUG
            except namespace.Terminated:
                self.console.warn("interrupted; nothing is left behind")
                raise
        return 0

    def _build(self) -> None:
        plan = self.plan
        stage_step_names = [f"{p.recipe.stage}/{s.name}" for p in plan.stages for s in p.steps]
        step_names = [each.name for each in plan.steps if self.options.test or each.name != "test"]
        shown_target = self.options.checked_target or self.target
        self.console.start(plan.recipe.path, str(shown_target), [*stage_step_names, *step_names])
        self.workshop.report_mode(self.options.section_options.host.words())
        self._phase("resolve")
        job = resolve(plan, self.options, self.workshop.downloads)
        if self.options.resume:
            resume.check_saved_tree(job)
        caller_umask = os.umask(0o022)  # the caller's must not change modes in the image
        *earlier, tree = self._tree_plans(job)
        remote.take(self.options, tree, earlier, self.console)
        with self._ext3_file() as ext3:
            if not self._copy_from_cache(tree, ext3):
                self._make_image(tree, earlier, ext3)
            self._phase("finish")
            if ext3 is not self.part:
                with Image(ext3.file) as image:
                    self.kind.write(image, self.part.file, about.of(image), self.console)
        resume.forget(job)
        remote.share(self.options, [*earlier, tree], self.console)
        if self.kind.format.directory:
            return
        self.part.chmod(self.kind.mode & ~caller_umask)
        workspace.rename_into_place(self.part, self.target, replace=self.options.force)
        if not self.options.checked_target:
            size, digest = self.target.stat().st_size, loading.recorded_digest(self.target)
            self.console.done(str(self.target), size, digest)

    @contextlib.contextmanager
    def _ext3_file(self) -> Iterator[workspace.Part]:
        """Yield the file for the ext3: the build's part file, or one that is converted into it."""
        if self.kind.name == loading.DEFAULT or self.kind.format.directory:
            yield self.part
        else:
            with workspace.part_file(self.workshop.scratch / "image") as ext3:
                yield ext3

    def _tree_plans(self, job: Job) -> list[TreePlan]:
        """Plan how to fill the tree of each stage, then the tree of the image."""
        snapshot_keys: dict[str, str] = {}
        plans = []
        for each in (*job.stages, job):
            # A resumed tree may hold left-overs of the failed section: it must not be cached.
            is_resumed = self.options.resume and (each is job or resume.has_saved_tree(each))
            use_cache = self.options.use_cache and not is_resumed
            steps = (dockerfile if each.evaluation else definition).steps(each, snapshot_keys)
            snapshots = self.workshop.snapshots
            plans.append(filling.plan_tree(each, steps, snapshots, use_cache=use_cache))
            snapshot_keys[each.stage] = plans[-1].key
        return plans

    def _copy_from_cache(self, tree: TreePlan, ext3: workspace.Part) -> bool:
        """Copy the image from the cache; return False if it is not there or cannot be read."""
        with store.cached(tree.snapshots.get(snapshot.IMAGE), self.console) as entry:
            try:
                if entry:
                    ext3.copy_from(entry.image)
                return entry is not None
            except OSError as error:
                self.console.warn(f"the cached image cannot be read: {error}")
                return False

    def _make_image(self, tree: TreePlan, earlier: list[TreePlan], ext3: workspace.Part) -> None:
        """Build the stages; fill the image's tree, seal it, and test it."""
        stages = Stages(self.workshop, {each.job.stage: each for each in earlier})
        if earlier:
            self._phase("stages")
            stages.build(tree)
        self._phase("scratch")
        storage = store.image_storage(tree.snapshots.get(snapshot.IMAGE), ext3, self.console)
        with storage as keep, self.workshop.rootfs(self.workshop.scratch, tree.job.epoch) as rootfs:
            workplace = Workplace(rootfs, self.workshop.scratch, stages.trees)
            with resume.saving_on_failure(tree, workplace, self.console):
                self._fill(tree, workplace)
                self._seal(tree.job, rootfs, ext3.file)
                self._test(rootfs)
            if workplace.is_as_planned:
                keep()

    def _fill(self, tree: TreePlan, workplace: Workplace) -> None:
        """Do the steps that fill the tree, and write the metadata into it."""
        job, rootfs, options = tree.job, workplace.rootfs, self.options
        recipe = job.plan.recipe
        start = resume.restore(tree, rootfs) if options.resume else filling.FROM_SNAPSHOT
        if options.base_image:
            rootfs.is_untrusted = True
            rootfs.unpack_tree(options.base_image)
        filling.fill(tree, workplace, self.console, start)
        source = dockerfile.source(job) if job.evaluation else job.source
        definition.prepare_metadata(job, rootfs, source)
        self._phase("metadata")
        metadata.write(rootfs, recipe, self._records(inputs.as_built(job, workplace), rootfs))
        sections.check_shell_text(recipe, rootfs)

    def _test(self, rootfs: Rootfs) -> None:
        """Execute %test. The seal comes before it, so the image has nothing that %test writes."""
        if self.options.test and "test" in self.plan.recipe.sections:
            self._phase("test")
            sections.test(self.plan.recipe, rootfs, self.options.section_options)

    def _records(self, job: Job, rootfs: Rootfs) -> dict[str, str]:
        """Return the files of /.singularity.d that describe the build, name to text."""
        plan, options = job.plan, job.options
        # What %post installed is known only now.
        complete_lock = {**job.lock, "packages": lock.installed_packages(rootfs)}
        if options.locked and "packages" in options.locked.lock:
            lock.check(options.locked, complete_lock, ("packages",))
        how = build_record(plan, free=options.free, resumed=options.resume, host=options.host_words)
        records = {
            "lock.yaml": lock.dumped(complete_lock, Path(plan.recipe.path).name),
            "build.json": how,
        }
        return records | (dockerfile.records(job) if job.evaluation else {})

    def _seal(self, job: Job, rootfs: Rootfs, target: Path) -> None:
        """Write the tree into an ext3 file system, from which ``_build`` makes any other kind."""
        self._phase("seal")
        root, options = rootfs.root, job.options
        prepared = metadata.take_prepared(rootfs)
        # An image of a fixed size has room for later packages; apt needs its indices for them.
        normalise.normalise(rootfs, job.epoch, indices=options.shape.size > 0)
        secrets.check_absent(root, job.secrets)
        permissions.fix(rootfs, wants=options.owner_may)
        with flushing_in_background(root):
            seal.seal(
                root,
                target,
                epoch=job.epoch,
                free=options.free,
                shape=options.shape,
                owners=rootfs.recorded_owners(warn=True),
                times=rootfs.baseline.times(root),
                on_progress=functools.partial(self.console.progress, "bytes"),
            )
        rootfs.write(metadata.PREPARED, prepared)  # for --resume after a failed %test

    def _phase(self, name: str) -> None:
        self.console.phase(name, self.plan.reason(name))
