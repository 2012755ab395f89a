"""The engine: recipe ─▶ plan ─▶ scratch ─▶ backend ─▶ sections ─▶ metadata ─▶ seal ─▶ target.

``build`` checks, opens what is to be cleaned up, and waits; ``_work`` does the
building in namespaces of its own, which end with it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from singbuild import image, metadata, namespace, preflight, seal, sections, workspace
from singbuild.console import Console
from singbuild.contract import Defaults
from singbuild.errors import HostError, RecipeError, RecipeKeyError, SingbuildError
from singbuild.plan import Plan
from singbuild.rootfs import Rootfs


WITHOUT_LOG = (0, *(128 + number for number in namespace.ENDING))


@dataclass(frozen=True)
class Options:
    """What the command line asks for. free: bytes of room to leave in the image."""

    force: bool = False
    test: bool = True
    free: int = 0


def build(plan: Plan, target: Path, options: Options, console: Console) -> int:
    """Build an image and return the exit status; what goes wrong is told on the console.

    The target is the old file or the new one, never half of one.
    """
    target = target.absolute()
    try:
        preflight.check(plan, target, force=options.force)
        with (
            workspace.scratch_directory() as work,
            workspace.part_file(target) as part,
            workspace.log_file(target) as log,
        ):
            console.log = log.file
            status = namespace.run(_Work(plan, options, console, work, part, target, log.path).run)
            log.keep = status not in WITHOUT_LOG
        if status == 128 + signal.SIGKILL:
            raise HostError(
                "the build was killed",
                why="Something sent it SIGKILL; often the kernel, out of memory.",
                remedy="dmesg tells whether it was the kernel. Nothing is left behind.",
            )
        return status
    except SingbuildError as error:
        console.error(error, None)
        return error.status


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

    def run(self) -> int:
        """Build; return the exit status."""
        with self.console:
            try:
                self._build()
            except (SingbuildError, OSError) as error:
                told = self._explained(error)
                self.console.error(told, self.log)
                return told.status
            except namespace.Terminated:
                self.console.warn("interrupted; nothing is left behind")
                raise
        return 0

    def _build(self) -> None:
        plan, recipe = self.plan, self.plan.recipe
        self.console.start(recipe.path, str(self.target))
        self._phase("resolve")
        plan.source.cache.mkdir(parents=True, exist_ok=True)
        pins = plan.backend.call("singbuild_resolve", source=plan.source)
        self._phase("scratch")
        image.make_scratch(self.work / "scratch.ext3")
        with image.mounted(self.work / "scratch.ext3", self.work / "rootfs") as root:
            rootfs = Rootfs(root, self.console)
            self._phase("bootstrap")
            arguments = {"source": plan.source, "pins": pins, "rootfs": rootfs}
            plan.backend.call("singbuild_bootstrap", **arguments)
            defaults = plan.backend.call("singbuild_defaults", **arguments) or Defaults()
            self._sections(rootfs)
            self._phase("metadata")
            metadata.write(rootfs, recipe, defaults)
            sections.check_shell_text(recipe, rootfs)
            if self.options.test and "test" in recipe.sections:
                self._phase("test")
                sections.test(recipe, rootfs)
            self._phase("seal")
            image.write_back(root)
            sealed = seal.seal(
                root, self.part, epoch=0, free=self.options.free, on_progress=self._sealing
            )
        self._phase("finish")
        workspace.rename_into_place(self.part, self.target)
        self.console.done(str(self.target), sealed.size)

    def _sections(self, rootfs: Rootfs) -> None:
        recipe = self.plan.recipe
        if "setup" in recipe.sections:
            self._phase("setup")
            sections.setup(recipe, rootfs, self.work)
        if "files" in recipe.sections:
            self._phase("files")
            sections.files(recipe, rootfs)
        if "post" in recipe.sections:
            self._phase("post")
            sections.post(recipe, rootfs)

    def _phase(self, name: str) -> None:
        self.console.phase(name, self.plan.reason(name))

    def _sealing(self, done: int, total: int) -> None:
        self.console.progress("bytes", done, total)

    def _explained(self, error: SingbuildError | OSError) -> SingbuildError:
        """The error as the user should read it."""
        if isinstance(error, RecipeKeyError):
            return _located(self.plan, error)
        if isinstance(error, OSError):
            return HostError(f"{error.filename or 'the host'}: {error.strerror or error}")
        return error


def _located(plan: Plan, error: RecipeKeyError) -> RecipeError:
    """A backend's complaint about a value, with the recipe's line."""
    header = plan.recipe.header(error.keyword) or plan.recipe.header("Bootstrap")
    assert header
    return plan.recipe.error(header, error.what, why=error.why, remedy=error.remedy)
