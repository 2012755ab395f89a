"""Refuses early: what can be known to fail is checked before the first byte is written."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from singbuild import command, workspace
from singbuild.contract import Needs, Program
from singbuild.errors import HostError, ImageError
from singbuild.formats import loading
from singbuild.formats.loading import Kind
from singbuild.plan import places
from singbuild.plan.plan import Plan
from singbuild.privilege import seccomp, subordinate
from singbuild.privilege.modes import Choice, Mode
from singbuild.recipe.files import matches
from singbuild.tree import metadata, scratch

_PROGRAMS = (Program("chroot", "coreutils"), Program("cp", "coreutils"))
_ROOTS_SCRATCH = Program("mke2fs", "e2fsprogs")

# Machines whose programs a kernel executes besides its own, without an emulator.
_ALSO_EXECUTED = {"x86_64": ("i386", "i586", "i686"), "aarch64": ("armv6l", "armv7l")}


def check(plan: Plan, target: Path, choice: Choice, kind: Kind, *, force: bool, test: bool) -> None:
    """Check all that a build needs. Raises HostError, ImageError or RecipeError."""
    check_target(target, force=force, directory=kind.format.directory)
    check_writer(kind)
    plans = (*plan.stages, plan)
    for each in plans:
        check_privilege(each, choice)
        check_machine(each, ("post", "test") if test and each is plan else ("post",))
    programs = (program for each in plans for program in each.backend.needs.programs)
    check_programs((*engine_programs(choice), *programs))
    space = sum(each.backend.needs.space for each in plans)
    places.check_scratch(workspace.scratch_parent(), space, choice)
    places.check_space(target.parent, plan.backend.needs.space, "name a target elsewhere.")
    for each in plans:
        check_files(each)


def check_target(target: Path, *, force: bool, directory: bool = False) -> None:
    """Refuse a target that exists (unless forced), is of another kind, or is in no directory.

    directory: it shall be one.
    """
    if directory and target.exists() and not target.is_dir():
        raise ImageError(f"{target} is no directory", remedy="Name another target.")
    if not directory and target.is_dir():
        remedy = "Name a file for the image, or say --sandbox for a directory."
        raise ImageError(f"{target} is a directory", remedy=remedy)
    if not directory and target.exists() and not target.is_file():
        raise ImageError(f"{target} is no regular file", remedy="Name a file for the image.")
    if target.is_dir():
        check_replaceable(target)  # before --force is advised
    if os.path.lexists(target) and not force:
        raise ImageError(
            f"{target} exists", remedy="Name another target, or replace this one with --force."
        )
    if target.exists():
        check_replaceable(target)
    if not target.parent.is_dir():
        raise ImageError(
            f"the directory {target.parent} does not exist", remedy=f"mkdir -p {target.parent}"
        )
    if reason := places.unwritable(target.parent):
        raise ImageError(
            f"the image {target} cannot be written",
            why=f"{places.shown(target.parent)}: {reason}",
            remedy="Name a target in a directory of yours.",
        )


def check_replaceable(target: Path) -> None:
    """Refuse to replace what is no image: with words in the wrong order that is one's own data.

    Empty files and directories may be replaced, but never where the caller stands or is at home.
    """
    remedy = f"Name another target, or remove it yourself: rm -r {shlex.quote(str(target))}"
    if not target.is_dir():
        try:
            if target.stat().st_size:
                loading.kind_of(target)
        except ImageError:
            why = "It is no image, and --force replaces images only."
            raise ImageError(f"{target} is left alone", why=why, remedy=remedy) from None
        return
    inhabited = (Path.cwd(), Path.home())
    place = target.resolve()
    if any(place == each or place in each.parents for each in inhabited):
        why = "The current directory or the home directory is in it."
        raise ImageError(f"{target} is left alone", why=why, remedy="Name another target.")
    names = {path.name for path in target.iterdir()}
    if names and metadata.HOME[1:] not in names and not names >= {"etc", "usr"}:
        why = f"It is no image: it has neither {metadata.HOME} nor /etc and /usr."
        raise ImageError(f"{target} is left alone", why=why, remedy=remedy)


def lack_owners(needs: Needs, choice: Choice) -> bool:
    """Whether a backend needs several owners where they can be neither given nor recorded."""
    return choice.mode is Mode.ONE_ID and needs.root and not seccomp.is_known()


def check_privilege(plan: Plan, choice: Choice) -> None:
    """Refuse a backend that needs more owners than this privilege mode can set."""
    if lack_owners(plan.backend.needs, choice):
        lacks = subordinate.missing()
        raise HostError(
            f"building with Bootstrap: {plan.backend.name} needs root, or subordinate ids",
            why="It makes devices and files of several owners.",
            remedy="\n".join(["Run it with sudo, or:", *(each.remedy for each in lacks)]),
        )


def check_machine(plan: Plan, executed: tuple[str, ...]) -> None:
    """Warn of sections that are executed in an image for another machine."""
    here, target = os.uname().machine, plan.source.arch
    if target not in (here, *_ALSO_EXECUTED.get(here, ())):
        for name in executed:
            if name in plan.recipe.sections:
                plan.source.report.warn(
                    f"%{name} is executed in an image for {target}: this machine, {here}, needs "
                    "an emulator for it, such as that of the package qemu-user-static"
                )


def engine_programs(choice: Choice) -> tuple[Program, ...]:
    """Return what the engine itself executes: mke2fs only where it makes a file system."""
    on_disk = choice.mode is Mode.ROOT and not scratch.is_memory(workspace.scratch_parent())
    return (*_PROGRAMS, _ROOTS_SCRATCH) if on_disk else _PROGRAMS


def check_programs(programs: tuple[Program, ...]) -> None:
    """Refuse a host without the programs, naming all that are missing and their packages."""
    missing = [program for program in programs if command.which(program.name) is None]
    if missing:
        packages = " ".join(sorted({program.package for program in missing}))
        raise HostError(
            f"this host lacks {', '.join(program.name for program in missing)}",
            remedy=f"apt-get install {packages}",
        )


def check_backend(plan: Plan) -> None:
    """Refuse a host without the programs of the plan's backend."""
    check_programs(plan.backend.needs.programs)


def check_writer(kind: Kind) -> None:
    """Refuse a host without what writes this kind of image."""
    if not kind.can_write:
        raise ImageError(f"the format {kind.name} is only read, not written")
    try:
        check_programs(kind.format.programs)
    except HostError as error:
        error.remedy += ", or take --format ext3 or sif-ext3, which need no program"
        raise


def check_files(plan: Plan) -> None:
    """Refuse %files that are not there, unless a script may still make them."""
    if not plan.recipe.may_make_files:
        for item in plan.recipe.files:
            if not item.stage:
                matches(plan.recipe, item)
