"""Refuses early: what can be known to fail is checked before the first byte is written."""

from __future__ import annotations

import os
from pathlib import Path

from singbuild import command, namespace, sections, workspace
from singbuild.contract import Program
from singbuild.errors import HostError, ImageError
from singbuild.plan import Plan

CAP_SYS_ADMIN = 21  # capabilities(7)
ENGINE_PROGRAMS = (
    Program("mke2fs", "e2fsprogs"),
    Program("chroot", "coreutils"),
    Program("cp", "coreutils"),
)


def check(plan: Plan, target: Path, *, force: bool) -> None:
    """Check all that a build needs. Raises HostError, ImageError or RecipeError."""
    check_target(target, force=force)
    check_privilege(plan)
    check_programs((*ENGINE_PROGRAMS, *plan.backend.needs.programs))
    for directory in (workspace.scratch_parent(), target.parent):
        check_space(directory, plan.backend.needs.space)
    check_files(plan)


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that exists (unless forced), is no file, or is in no directory."""
    if target.is_dir():
        raise ImageError(f"{target} is a directory", remedy="Name a file for the image.")
    if target.exists() and not target.is_file():
        raise ImageError(f"{target} is no regular file", remedy="Name a file for the image.")
    if os.path.lexists(target) and not force:
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


def check_privilege(plan: Plan) -> None:
    """Refuse a caller who can neither be root nor play it in a user namespace."""
    if os.geteuid() == 0:
        check_root()
    elif plan.backend.needs.root:
        raise HostError(
            f"building with Bootstrap: {plan.backend.name} needs root",
            why="It makes devices and files of several owners.",
            remedy="Run it with sudo. Images run without root: singrun exec IMAGE COMMAND.",
        )
    elif reason := namespace.refusal():
        raise HostError(
            "this host gives you no user namespace, which building without root needs",
            why=reason,
            remedy="Run it with sudo, or ask for: sysctl user.max_user_namespaces=10000 "
            "(Ubuntu: also kernel.apparmor_restrict_unprivileged_userns=0).",
        )


def check_root() -> None:
    """Refuse a root that may not mount, as in most containers."""
    capabilities = Path("/proc/self/status").read_text().partition("CapEff:\t")[2].split()[0]
    if not int(capabilities, 16) >> CAP_SYS_ADMIN & 1:
        raise HostError(
            "root may not mount anything here",
            why="The capability CAP_SYS_ADMIN is missing; most containers take it away.",
            remedy="Build outside the container, or give it the capability.",
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
