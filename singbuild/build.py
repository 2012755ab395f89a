"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks, opens what is to be cleaned up, and waits; ``_work`` does the
building in namespaces of its own, which end with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from singbuild import workspace
from singbuild.backends import extensions
from singbuild.cache import resume, steps, store
from singbuild.cache.store import Snapshot
from singbuild.console import faults
from singbuild.console.display import Console
from singbuild.contract import Defaults
from singbuild.errors import EXIT_BUG, SingbuildError
from singbuild.ext3.writer import seal
from singbuild.plan import lock, places, preflight
from singbuild.plan.job import Job
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan, recorded
from singbuild.privilege import capabilities, modes, namespace, seccomp
from singbuild.privilege.modes import Choice, Mode
from singbuild.privilege.recorder import Recorder
from singbuild.tree import chroot, metadata, normalise, scratch, secrets, sections
from singbuild.tree.rootfs import Rootfs

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
        site.check(about)
        site.started(about)
        with (
            workspace.scratch_directory() as work,
            workspace.part_file(target) as part,
            workspace.log_file(target) as log,
        ):
            console.log = log.file
            work_it = _Work(plan, options, console, work, part, target, log.path, choice)
            status = namespace.run(work_it.run, choice.ids, work_it.recorder(), work_it.without())
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
    work: Path
    part: workspace.Part
    target: Path
    log: Path
    choice: Choice

    @property
    def _journal(self) -> Path:
        return self.work / "owners"

    def recorder(self) -> Recorder | None:
        """Return what records the owners and devices that this host cannot give, if it may."""
        if self.choice.mode is Mode.ROOT or not seccomp.is_known():
            return None
        if self.choice.mode is Mode.CHROOT and scratch.holds_devices(self.work):
            return None
        return Recorder(self._journal, owners=self._has_one_owner)

    def without(self) -> list[int]:
        """Return the capabilities that the build must do without, as the host may."""
        if self.choice.mode is not Mode.CHROOT:
            return []
        devices = [] if scratch.holds_devices(self.work) else [capabilities.MKNOD]
        return [capabilities.SYS_ADMIN, *devices]

    @property
    def _has_one_owner(self) -> bool:
        """Whether all files are the caller's here, whatever a program asks for."""
        return self.choice.mode is Mode.ONE_ID or chroot.has_one_id()

    def run(self) -> int:
        """Build; return the exit status."""
        with self.console:
            try:
                self._build()
            except (SingbuildError, OSError) as error:
                told = faults.explained(error, self.plan, (self.work, self.target.parent))
                self.console.error(told, self.log)
                return told.status
            except Exception as error:
                traceback.print_exc()
                self.console.error(faults.bug(error), self.log)
                return EXIT_BUG
            except namespace.Terminated:
                self.console.warn("interrupted; nothing is left behind")
                raise
        return 0

    def _build(self) -> None:
        plan = self.plan
        names = [each.name for each in plan.steps if self.options.test or each.name != "test"]
        self.console.start(plan.recipe.path, str(self.target), names)
        self.console.line(f"privilege: {self.choice.mode}: {self.choice.reason}")
        if self.choice.mode is Mode.CHROOT:
            inside = "in %post and %test"
            self.console.warn(f"nothing may be mounted here: /proc and /sys are empty {inside}")
            if not capabilities.has(capabilities.MKNOD):
                self.console.warn(
                    f"no device works here: /dev/null is a file {inside}, others are missing"
                )
        job = self._job()
        mask = os.umask(0o022)  # the caller's has no say in what the image holds
        snapshots = steps.snapshots(job, one_owner=self._has_one_owner)
        if not self._taken_from_cache(snapshots):
            self._make(job, snapshots)
        self._phase("finish")
        self.part.chmod(0o777 & ~mask)
        workspace.rename_into_place(self.part, self.target, replace=self.options.force)
        resume.forget(plan)
        self.console.done(str(self.target), self.target.stat().st_size)

    def _job(self) -> Job:
        """Resolve the inputs; refuse those that are not what a lock says."""
        self._phase("resolve")
        plan, wanted = self.plan, self.options.locked
        pinned = wanted.lock.get("pins") if wanted else None
        source = replace(plan.source, cache=self._downloads(), locked=pinned or {})
        pins = plan.backend.call("singbuild_resolve", source=source)
        resolved = lock.make(plan, pins, wanted.lock if wanted else None)
        if wanted:
            lock.check(wanted, resolved, resolved)
        return Job(plan, self.options, source, pins, resolved)

    def _downloads(self) -> Path:
        """Where the backend keeps downloads: the cache, or the scratch if that is read-only."""
        cache = self.plan.source.cache
        with contextlib.suppress(OSError):
            workspace.make_in_cache(cache)
        if trouble := places.cache_trouble(cache.parent, self.plan.backend.needs.space):
            self.console.warn(trouble)
        if os.access(cache, os.W_OK):
            return cache
        (self.work / "downloads").mkdir()
        return self.work / "downloads"

    def _taken_from_cache(self, snapshots: Mapping[str, Snapshot]) -> bool:
        """Whether the very image was built before; then the part file holds it."""
        image = snapshots.get(steps.IMAGE)
        entry = store.find(image, self.console) if image else None
        try:
            if entry:
                self.part.copy_from(entry.path)
        except OSError as error:  # another build made room meanwhile
            self.console.warn(f"the cached image cannot be read: {error}")
            return False
        return entry is not None

    def _make(self, job: Job, snapshots: Mapping[str, Snapshot]) -> None:
        """Fill a scratch, complete it, and seal it into the part file."""
        self._phase("scratch")
        with scratch.scratch(self.work, privileged=self.choice.mode is Mode.ROOT) as root:
            rootfs = Rootfs(root, self.console, self._journal, job.epoch)
            with resume.saved(job, rootfs, self.console):
                self._fill(job, rootfs, snapshots)
            self._seal(job, rootfs)
        if image := snapshots.get(steps.IMAGE):
            store.store_image(image, self.part, self.console)

    def _fill(self, job: Job, rootfs: Rootfs, snapshots: Mapping[str, Snapshot]) -> None:
        """Do all steps that work on the tree."""
        recipe, options = job.plan.recipe, job.options
        first = resume.restored(job, rootfs) if options.resume else ""
        if options.onto:
            rootfs.is_foreign = True
            rootfs.unpack_image(options.onto)
        steps.fill(job, rootfs, self.work, self.console, snapshots, first)
        call = job.plan.backend.call
        told = call("singbuild_defaults", source=job.source, pins=job.pins, rootfs=rootfs)
        self._phase("metadata")
        metadata.write(rootfs, recipe, told or Defaults(), self._records(job, rootfs))
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
