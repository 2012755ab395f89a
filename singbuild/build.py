"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks, opens what is to be cleaned up, and waits; ``_work`` does the
building in namespaces of its own, which end with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from singbuild import workspace
from singbuild.backends import extensions
from singbuild.cache import resume, stages, store
from singbuild.console import faults
from singbuild.console.display import Console
from singbuild.contract import Defaults, Pins, Source
from singbuild.errors import EXIT_BUG, SingbuildError
from singbuild.ext3.writer import seal
from singbuild.plan import lock, places, preflight
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
        asked = plan.build(target, locked=options.locked is not None)
        site.check(asked)
        site.started(asked)
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
        steps = [each.name for each in plan.steps if self.options.test or each.name != "test"]
        self.console.start(plan.recipe.path, str(self.target), steps)
        self.console.line(f"privilege: {self.choice.mode}: {self.choice.reason}")
        if self.choice.mode is Mode.CHROOT:
            inside = "in %post and %test"
            self.console.warn(f"nothing may be mounted here: /proc and /sys are empty {inside}")
            if not capabilities.has(capabilities.MKNOD):
                self.console.warn(
                    f"no device works here: /dev/null is a file {inside}, others are missing"
                )
        self._phase("resolve")
        asked = self.options.locked
        pinned = asked.lock.get("pins") if asked else None
        source = replace(plan.source, cache=self._downloads(), locked=pinned or {})
        pins = plan.backend.call("singbuild_resolve", source=source)
        made = self._locked(pins)
        os.environ["SOURCE_DATE_EPOCH"] = str(made["epoch"])
        mask = os.umask(0o022)  # the caller's has no say in what the image holds
        # A resumed tree may hold what the failed run left: cache none of its stages.
        keep = self.options.use_cache and not self.options.resume
        given, finish = self.options.given.secrets, self.options.finish
        kept = stages.cacheable(plan, made, finish, given) if keep else {}
        if self._has_one_owner:  # programs saw other owners there: stages of their own
            kept = {n: replace(s, inputs={**s.inputs, "privilege": ""}) for n, s in kept.items()}
        if not self._taken_from_cache(kept):
            self._make(source, pins, made, kept)
        self._phase("finish")
        self.part.chmod(0o777 & ~mask)
        workspace.rename_into_place(self.part, self.target, replace=self.options.force)
        resume.forget(plan)
        self.console.done(str(self.target), self.target.stat().st_size)

    def _taken_from_cache(self, kept: dict[str, store.Stage]) -> bool:
        """Whether the very image was built before; then the part file holds it."""
        entry = store.find(kept["image"], self.console) if "image" in kept else None
        try:
            if entry:
                self.part.copy_from(entry.path)
        except OSError as error:  # another build made room meanwhile
            self.console.warn(f"the cached image cannot be read: {error}")
            return False
        return entry is not None

    def _make(
        self, source: Source, pins: Pins, made: lock.Lock, kept: dict[str, store.Stage]
    ) -> None:
        """Fill a scratch, complete it, and seal it into the part file."""
        plan, given = self.plan, self.options.given
        self._phase("scratch")
        with scratch.scratch(self.work, privileged=self.choice.mode is Mode.ROOT) as root:
            rootfs = Rootfs(root, self.console, self._journal, made["epoch"])
            arguments = {"source": source, "pins": pins, "rootfs": rootfs}
            with resume.kept(plan, made, given, rootfs, self.console, wanted=self.options.keep):
                self._fill(rootfs, arguments, made, kept)
            self._phase("seal")
            normalise.normalise(rootfs, made["epoch"], indices=self.options.shape.size > 0)
            secrets.check_absent(root, given.secrets)
            with scratch.written_back(root):
                seal.seal(
                    root,
                    self.part.path,
                    epoch=made["epoch"],
                    free=self.options.free,
                    shape=self.options.shape,
                    owners=rootfs.wished(tell=True),
                    times=rootfs.baseline.times(root),
                    on_progress=self._sealing,
                )
        if "image" in kept:
            store.store_image(kept["image"], self.part, self.console)

    def _fill(
        self,
        rootfs: Rootfs,
        arguments: dict[str, Any],
        made: lock.Lock,
        kept: dict[str, store.Stage],
    ) -> None:
        """Do all steps that work on the tree."""
        plan, recipe, options, begin = self.plan, self.plan.recipe, self.options, ""
        if options.resume:
            begin = resume.taken_up(plan, made, options.given, rootfs)
        if options.onto:
            rootfs.is_foreign = True
            rootfs.unpack_image(options.onto)
        stages.fill(
            rootfs, plan, arguments, made, self.work, self.console, kept, options.given, begin
        )
        defaults = plan.backend.call("singbuild_defaults", **arguments) or Defaults()
        self._phase("metadata")
        made = self._with_packages(rootfs, made)
        texts = {
            "lock.yaml": lock.dumped(made, Path(recipe.path).name),
            "build.json": recorded(
                plan, tested=options.test, free=options.free, resumed=options.resume
            ),
        }
        metadata.write(rootfs, recipe, defaults, texts)
        sections.check_shell_text(recipe, rootfs)
        if options.test and "test" in recipe.sections:
            self._phase("test")
            sections.test(recipe, rootfs, options.given)

    def _downloads(self) -> Path:
        """Where the backend keeps downloads: the cache, or the scratch if that is read-only."""
        kept = self.plan.source.cache
        with contextlib.suppress(OSError):
            workspace.make_in_cache(kept)
        if trouble := places.cache_trouble(kept.parent, self.plan.backend.needs.space):
            self.console.warn(trouble)
        if os.access(kept, os.W_OK):
            return kept
        (self.work / "downloads").mkdir()
        return self.work / "downloads"

    def _locked(self, pins: Pins) -> lock.Lock:
        """The lock of what would be built now; refused when it is not what was asked for."""
        kept = self.options.locked
        made = lock.make(self.plan, pins, kept.lock if kept else None)
        if kept:
            lock.check(kept, made, made)
        return made

    def _with_packages(self, rootfs: Rootfs, made: lock.Lock) -> lock.Lock:
        """The lock of what was built: what %post installed is known only now."""
        made = {**made, "packages": lock.installed(rootfs)}
        kept = self.options.locked
        if kept and "packages" in kept.lock:
            lock.check(kept, made, ("packages",))
        return made

    def _phase(self, name: str) -> None:
        self.console.phase(name, self.plan.reason(name))

    def _sealing(self, done: int, total: int) -> None:
        self.console.progress("bytes", done, total)
