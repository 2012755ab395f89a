"""Builds twice without the cache, and tells in which paths the two images differ, and how."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from pathlib import Path

from singbuild import build, host, workspace
from singbuild.console.display import Console
from singbuild.errors import SingbuildError, UsageError
from singbuild.formats import loading
from singbuild.images import difference
from singbuild.plan import preflight
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan
from singbuild.privilege import modes

SHOWN = 200  # paths


def check(plan: Plan, target: Path, options: Options, console: Console) -> int:
    """Build an image twice; it becomes the target only when the two are equal.

    Returns the exit status: a build's own, 1 when the two differ.
    """
    try:
        kind = loading.chosen(target, options.format)
        if kind.format.directory:
            raise UsageError("--check-reproducible compares files, and a directory is none")
        options = replace(options, use_cache=False, format=kind.name)
        choice = modes.choose(options.privilege)
        target = target.absolute()
        preflight.check(plan, target, choice, kind, force=options.force, test=options.test)
        with workspace.scratch_directory() as work:
            pair = work / "first.img", work / "second.img"
            for image in pair:
                if status := build.build(plan, image, options, console):
                    return status
            _check_equal(*pair, console)
            with workspace.part_file(target) as part:
                part.copy_from(pair[0])
                part.chmod(kind.mode & ~host.umask())
                workspace.rename_into_place(part, target)
    except SingbuildError as error:
        console.error(error, None)
        return error.status
    console.line(f"{target} is reproducible: both builds gave the same bytes")
    return 0


def _check_equal(first: Path, second: Path, console: Console) -> None:
    if filecmp.cmp(first, second, shallow=False):
        return
    count = 0
    for count, change in enumerate(difference.differing_paths(first, second), 1):
        if count <= SHOWN:
            details = "; ".join(f"{d.what}: {d.was} and {d.now}" for d in change.details)
            console.line(f"{change.kind}: {change.shown}" + f" ({details})" * bool(details))
    raise SingbuildError(
        f"two builds of the recipe differ in {count} path{'s' * (count != 1)}",
        why="They are listed above." if count <= SHOWN else f"The first {SHOWN} are listed above.",
        remedy="Look for dates, random numbers and downloads in %post; docs/reproducibility.md "
        "says what singbuild takes care of.",
    )
