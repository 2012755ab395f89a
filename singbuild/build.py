"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks, opens what is to be cleaned up, and waits; ``_work`` does the
building in namespaces of its own, which end with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from singbuild import (
    cache,
    extensions,
    faults,
    image,
    lock,
    metadata,
    namespace,
    preflight,
    quiet,
    seal,
    sections,
    stages,
    workspace,
)
from singbuild.console import Console
from singbuild.contract import Defaults, Pins, Source
from singbuild.errors import EXIT_BUG, SingbuildError
from singbuild.lock import LockFile
from singbuild.plan import Plan, recorded
from singbuild.rootfs import Rootfs

WITHOUT_LOG = (0, *(128 + number for number in namespace.ENDING))


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    free: bytes of room to leave in the image; locked: the lock to keep to.
    """

    force: bool = False
    test: bool = True
    free: int = 0
    use_cache: bool = True
    locked: LockFile | None = None

    @property
    def finish(self) -> dict[str, str]:
        """What has a say in the finished image beyond the recipe."""
        packages = self.locked.lock.get("packages") if self.locked else None
        return {"tested": str(self.test), "free": str(self.free), "locked": str(packages)}


def build(plan: Plan, target: Path, options: Options, console: Console) -> int:
    """Build an image and return the exit status; what goes wrong is told on the console.

    The target is the old file or the new one, never half of one.
    """
    # A link that names the target stays; what it names is replaced.
    target = target.resolve() if os.path.lexists(target) else target.absolute()
    privileged = os.geteuid() == 0
    try:
        preflight.check(plan, target, force=options.force)
        site = extensions.load(console)
        asked = extensions.described(plan, target, locked=options.locked is not None)
        site.check(asked)
        site.started(asked)
        with (
            workspace.scratch_directory() as work,
            workspace.part_file(target) as part,
            workspace.log_file(target) as log,
        ):
            console.log = log.file
            work_it = _Work(plan, options, console, work, part, target, log.path, privileged)
            status = namespace.run(work_it.run)
            if status == 128 + signal.SIGKILL:
                console.error(faults.KILLED, log.path)
                status = faults.KILLED.status
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
    part: Path
    target: Path
    log: Path
    privileged: bool

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
        self.console.start(plan.recipe.path, str(self.target))
        self._phase("resolve")
        asked = self.options.locked
        pinned = asked.lock.get("pins") if asked else None
        source = replace(plan.source, cache=self._downloads(), locked=pinned or {})
        pins = plan.backend.call("singbuild_resolve", source=source)
        made = self._locked(pins)
        os.environ["SOURCE_DATE_EPOCH"] = str(made["epoch"])
        os.umask(0o022)  # the caller's has no say in what the image holds
        keep = self.options.use_cache and self.privileged
        if self.options.use_cache and not self.privileged:
            self.console.line("cache: stages are kept by root's builds only")
        kept = stages.cacheable(plan, made, self.options.finish) if keep else {}
        if not self._taken_from_cache(kept):
            self._make(source, pins, made, kept)
        self._phase("finish")
        workspace.rename_into_place(self.part, self.target, replace=self.options.force)
        self.console.done(str(self.target), self.target.stat().st_size)

    def _taken_from_cache(self, kept: dict[str, cache.Stage]) -> bool:
        """Whether the very image was built before; then the part file holds it."""
        entry = cache.find(kept["image"], self.console) if "image" in kept else None
        try:
            if entry:
                shutil.copy(entry.path, self.part)
        except OSError as error:  # another build made room meanwhile
            self.console.warn(f"the cached image cannot be read: {error}")
            return False
        return entry is not None

    def _make(
        self, source: Source, pins: Pins, made: lock.Lock, kept: dict[str, cache.Stage]
    ) -> None:
        """Fill a scratch, complete it, and seal it into the part file."""
        plan, recipe = self.plan, self.plan.recipe
        self._phase("scratch")
        with image.scratch(self.work, privileged=self.privileged) as root:
            rootfs = Rootfs(root, self.console)
            arguments = {"source": source, "pins": pins, "rootfs": rootfs}
            stages.fill(rootfs, plan, arguments, made, self.work, self.console, kept)
            defaults = plan.backend.call("singbuild_defaults", **arguments) or Defaults()
            self._phase("metadata")
            made = self._with_packages(rootfs, made)
            texts = {
                "lock.yaml": lock.dumped(made, Path(recipe.path).name),
                "build.json": recorded(plan, tested=self.options.test, free=self.options.free),
            }
            metadata.write(rootfs, recipe, defaults, texts)
            sections.check_shell_text(recipe, rootfs)
            if self.options.test and "test" in recipe.sections:
                self._phase("test")
                sections.test(recipe, rootfs)
            self._phase("seal")
            quiet.quieten(rootfs, made["epoch"])
            image.write_back(root)
            epoch, free = made["epoch"], self.options.free
            seal.seal(root, self.part, epoch=epoch, free=free, on_progress=self._sealing)
        if "image" in kept:
            cache.store_image(kept["image"], self.part, self.console)

    def _downloads(self) -> Path:
        """Where the backend keeps downloads: the cache, or the scratch if that is read-only."""
        kept = self.plan.source.cache
        with contextlib.suppress(OSError):
            kept.mkdir(parents=True, exist_ok=True)
        if os.access(kept, os.W_OK):
            return kept
        self.console.warn(f"{kept} cannot be written; downloads are not kept")
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
