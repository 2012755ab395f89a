"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks, opens what is to be cleaned up, and waits; ``_Work`` does the
building in namespaces of its own, which end with it.
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

from singbuild import about, part_directory, workspace
from singbuild.backends import extensions
from singbuild.cache import filling, remote, resume, store
from singbuild.cache.filling import Filling
from singbuild.console import faults
from singbuild.console.display import Console
from singbuild.errors import EXIT_BUG, SingbuildError
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer import seal
from singbuild.formats import loading
from singbuild.formats.loading import Kind
from singbuild.plan import lock, policy, preflight
from singbuild.plan.job import Job, resolved
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan, recorded
from singbuild.privilege import modes, namespace
from singbuild.stages import StageError, Stages
from singbuild.steps import definition, dockerfile
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
        kind = loading.chosen(target, options.format)
        policy.check(plan, needs_lock=options.command == "build" and not options.locked)
        preflight.check(plan, target, choice, kind, force=options.force, test=options.test)
        options = replace(options, writer=kind.writer())
        site = extensions.load(console)
        asked = plan.build(target, options.command, locked=options.locked is not None)
        site.check(asked)
        site.started(asked)
        with (
            workspace.scratch_directory() as work,
            workspace.part_file(work / "image" if kind.format.directory else target) as part,
            workspace.log_file(target) as log,
        ):
            console.log = log.file
            shop = Workshop(work, console, choice, log.path)
            job = _Work(plan, options, console, shop, part, target, kind)
            status = namespace.run(job.run, choice.ids, shop.recorder(), shop.without())
            if status == 0 and kind.format.directory:  # its files shall be the caller's
                with Image(part.file) as tree:
                    part_directory.fill(target, tree, kind, console, replace=options.force)
            if status == 128 + signal.SIGKILL:
                console.error(faults.KILLED, log.path)
                status = faults.KILLED.status
            if status == 0 and options.replaced:
                part.take_over(options.replaced)
            console.log = None
            log.keep = status not in WITHOUT_LOG
        site.finished(asked, status, console.seconds)
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
    kind: Kind

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
        shown = self.options.trial_for or self.target
        self.console.start(plan.recipe.path, str(shown), [*stages, *names])
        self.shop.tell()
        self._phase("resolve")
        job = resolved(plan, self.options, self.shop.downloads)
        if self.options.resume:
            resume.check_there(job)
        mask = os.umask(0o022)  # the caller's has no say in what the image holds
        *earlier, tree = self._fillings(job)
        remote.take(self.options.cache_from, tree, earlier, self.console)
        with self._sealed() as sealed:
            if not self._taken_from_cache(tree, sealed):
                self._make(tree, earlier, sealed)
            self._phase("finish")
            if sealed is not self.part:
                with Image(sealed.file) as image:
                    self.kind.write(image, self.part.file, about.of(image), self.console)
        resume.forget(job)
        remote.share(self.options.cache_to, [*earlier, tree], self.console)
        if self.kind.format.directory:
            return
        self.part.chmod(self.kind.mode & ~mask)
        workspace.rename_into_place(self.part, self.target, replace=self.options.force)
        if not self.options.trial_for:
            size, digest = self.target.stat().st_size, loading.recorded_digest(self.target)
            self.console.done(str(self.target), size, digest)

    @contextlib.contextmanager
    def _sealed(self) -> Iterator[workspace.Part]:
        """Give the file for the sealed ext3: the target's own, or what that is made from."""
        if self.kind.name == loading.DEFAULT or self.kind.format.directory:
            yield self.part
        else:
            with workspace.part_file(self.shop.work / "image") as sealed:
                yield sealed

    def _fillings(self, job: Job) -> list[Filling]:
        """Return how each tree is filled: those of the stages, and the image's."""
        keys: dict[str, str] = {}
        found = []
        for each in (*job.stages, job):
            # A resumed tree may hold what the failed run left.
            is_resumed = self.options.resume and (each is job or resume.is_there(each))
            use_cache = self.options.use_cache and not is_resumed
            steps = (dockerfile if each.evaluation else definition).steps(each, keys)
            one_owner = self.shop.has_one_owner
            found.append(filling.filling(each, steps, one_owner=one_owner, use_cache=use_cache))
            keys[each.stage] = found[-1].key
        return found

    def _taken_from_cache(self, tree: Filling, sealed: workspace.Part) -> bool:
        """Whether the very image was built before; then ``sealed`` holds it."""
        image = tree.snapshots.get(filling.IMAGE)
        entry = store.find(image, self.console) if image else None
        try:
            if entry:
                sealed.copy_from(entry.path)
        except OSError as error:  # another build made room meanwhile
            self.console.warn(f"the cached image cannot be read: {error}")
            return False
        return entry is not None

    def _make(self, tree: Filling, others: list[Filling], sealed: workspace.Part) -> None:
        """Build the stages; fill a scratch, complete it, and seal it."""
        stages = Stages(self.shop, {each.job.stage: each for each in others})
        if others:
            self._phase("stages")
            stages.build(tree)
        self._phase("scratch")
        with (
            self.shop.rootfs(self.shop.work, tree.job.epoch) as rootfs,
            resume.saved(tree, rootfs, self.console),
        ):
            self._fill(tree, Site(rootfs, self.shop.work, stages.trees))
            self._seal(tree.job, rootfs, sealed.file)
            self._test(rootfs)
        if image := tree.snapshots.get(filling.IMAGE):
            store.store_image(image, sealed, self.console)

    def _fill(self, tree: Filling, site: Site) -> None:
        """Do all steps that work on the tree."""
        job, rootfs, options, recipe = tree.job, site.rootfs, self.options, tree.job.plan.recipe
        begin = (resume.restored(tree, rootfs) if options.resume else None) or ("", "")
        if options.onto:
            rootfs.is_foreign = True
            rootfs.unpack_tree(options.onto)
        filling.fill(tree, site, self.console, *begin)
        definition.lay(job, rootfs, dockerfile.source(job) if job.evaluation else job.source)
        self._phase("metadata")
        metadata.write(rootfs, recipe, self._records(job, rootfs))
        sections.check_shell_text(recipe, rootfs)

    def _test(self, rootfs: Rootfs) -> None:
        """Execute %test on the tree that is sealed already: what it writes is in no image."""
        if self.options.test and "test" in self.plan.recipe.sections:
            self._phase("test")
            sections.test(self.plan.recipe, rootfs, self.options.sections)

    def _records(self, job: Job, rootfs: Rootfs) -> dict[str, str]:
        """Return the files that tell of the build, name to text."""
        plan, options = job.plan, job.options
        # What %post installed is known only now.
        complete = {**job.lock, "packages": lock.installed(rootfs)}
        if options.locked and "packages" in options.locked.lock:
            lock.check(options.locked, complete, ("packages",))
        how = recorded(plan, free=options.free, resumed=options.resume)
        records = {
            "lock.yaml": lock.dumped(complete, Path(plan.recipe.path).name),
            "build.json": how,
        }
        return records | (dockerfile.records(job) if job.evaluation else {})

    def _seal(self, job: Job, rootfs: Rootfs, target: Path) -> None:
        """Write the tree into an ext3, from which any other kind is made."""
        self._phase("seal")
        root, options = rootfs.root, job.options
        laid = metadata.unlaid(rootfs)
        normalise.normalise(rootfs, job.epoch, indices=options.shape.size > 0)
        secrets.check_absent(root, job.secrets)
        with scratch.written_back(root):
            seal.seal(
                root,
                target,
                epoch=job.epoch,
                free=options.free,
                shape=options.shape,
                owners=rootfs.wished(tell=True),
                times=rootfs.baseline.times(root),
                on_progress=functools.partial(self.console.progress, "bytes"),
            )
        rootfs.write(metadata.LAID, laid)  # a %test that fails may be resumed

    def _phase(self, name: str) -> None:
        self.console.phase(name, self.plan.reason(name))
