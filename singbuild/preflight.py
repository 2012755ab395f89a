"""Refuses early: what can be known to fail is checked before the first byte is written."""

from __future__ import annotations

import os
from pathlib import Path

from singbuild import command, sections, workspace
from singbuild.contract import Program
from singbuild.errors import HostError, ImageError
from singbuild.plan import Plan

ENGINE_PROGRAMS = (
    Program("mke2fs", "e2fsprogs"),
    Program("chroot", "coreutils"),
    Program("cp", "coreutils"),
)


def check(plan: Plan, target: Path, *, force: bool) -> None:
    """Check all that a build needs. Raises HostError, ImageError or RecipeError."""
    check_target(target, force=force)
    check_privilege()
    check_programs((*ENGINE_PROGRAMS, *plan.backend.needs.programs))
    for directory in (workspace.scratch_parent(), target.parent):
        check_space(directory, plan.backend.needs.space)
    check_files(plan)


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that exists (unless forced), is no file, or is in no directory."""
    if target.is_dir():
        raise ImageError(f"{target} is a directory", remedy="Name a file for the image.")
    if target.exists() and not force:
        raise ImageError(
            f"{target} exists", remedy="Name another target, or replace this one with --force."
        )
    if not target.parent.is_dir():
        raise ImageError(
            f"the directory {target.parent} does not exist", remedy=f"mkdir -p {target.parent}"
        )
    if not os.access(target.parent, os.W_OK):
        raise ImageError(
            f"the image {target} cannot be written",
            why=f"You may not write in {target.parent}.",
            remedy="Name a target in a directory of yours.",
        )


def check_privilege() -> None:
    """Refuse a caller who can neither mount nor chroot."""
    if os.geteuid() != 0:
        raise HostError(
            "building an image needs root",
            why="The recipe's sections run in a chroot, on a mounted scratch image.",
            remedy="Run it with sudo. Images run without root: singrun exec IMAGE COMMAND.",
        )
    if not Path("/dev/loop-control").exists():
        raise HostError(
            "this host has no loop devices",
            why="/dev/loop-control does not exist; the scratch image cannot be mounted.",
            remedy="modprobe loop, or give the container you are in access to loop devices.",
        )


def check_programs(programs: tuple[Program, ...]) -> None:
    """Refuse a host without the programs, naming all that are missing and their packages."""
    missing = [program for program in programs if command.which(program.name) is None]
    if missing:
        packages = " ".join(sorted({program.package for program in missing}))
        raise HostError(
            f"this host lacks {', '.join(program.name for program in missing)}",
            remedy=f"apt-get install {packages}",
        )


def check_space(directory: Path, needed: int) -> None:
    """Refuse a directory whose file system has less than ``needed`` bytes left."""
    try:
        free = workspace.free_bytes(directory)
    except OSError as error:
        raise HostError(
            f"{directory}: {error.strerror}",
            remedy="Set SINGBUILD_TMPDIR to a directory on a local disk that you may write.",
        ) from error
    if free < needed:
        raise HostError(
            f"{directory} has {free >> 20} MiB left, the build needs at least {needed >> 20} MiB",
            remedy="Free some space; SINGBUILD_TMPDIR names another directory for the scratch.",
        )


def check_files(plan: Plan) -> None:
    """Refuse %files that are not there, unless %setup may still make them."""
    if "setup" not in plan.recipe.sections:
        for item in plan.recipe.files:
            sections.matches(plan.recipe, item)
