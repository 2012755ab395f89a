"""Builds twice without the cache, in other surroundings, and lists the paths that differ.

The second build has another day, host name, number of processors, umask, zone, locale, user's
name and scratch directory. What could not be varied is reported.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import time
from collections.abc import Iterator
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
from singbuild.tree import surroundings
from singbuild.tree.surroundings import Surroundings

MOST_PATHS = 200
# A zone that is off by 45 minutes; and a language in which I and i are no pair, as programs come to
# know late: https://github.com/Perl/perl5/issues/6816.
VARIABLES = {
    "TZ": "Asia/Kathmandu",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "USER": "singbuild-second",
    "LOGNAME": "singbuild-second",
}


def check(plan: Plan, target: Path, options: Options, console: Console) -> int:
    """Build an image twice; it becomes the target only when the two are equal.

    Returns the exit status: a build's own, 1 when the two differ.
    """
    target = target.absolute()
    try:
        kind = loading.chosen(target, options.format)
        if kind.format.directory:
            raise UsageError("--check-reproducible compares files, and a directory is none")
        options = replace(options, use_cache=False, format=kind.name, checked_target=target)
        choice = modes.choose(options.privilege)
        preflight.check(plan, target, choice, kind, force=options.force, test=options.test)
        with workspace.scratch_directory() as work:
            pair = work / "first.img", work / "second.img"
            if status := build.build(plan, pair[0], options, console):
                return status
            other = Surroundings(
                clock=surroundings.library(), hostname="singbuild-second", witness=work / "clock"
            )
            console.line("the second build, in other surroundings")
            with _elsewhere(other):
                if status := build.build(plan, pair[1], options, console):
                    return status
            differences = _varied(other)
            changes = _differences(*pair, console)
            console.reproducible(same=not changes, differing=changes, surroundings=differences)
            if changes:
                raise _differ(changes)
            with workspace.part_file(target) as part:
                part.copy_from(pair[0])
                part.chmod(kind.mode & ~host.umask())
                workspace.rename_into_place(part, target, replace=options.force)
    except SingbuildError as error:
        console.error(error, None)
        return error.status
    console.done(str(target), target.stat().st_size, loading.recorded_digest(target))
    return 0


@contextlib.contextmanager
def _elsewhere(other: Surroundings) -> Iterator[None]:
    """Change variables, umask, processors and kernel data, as on another host, for a with-block."""
    time.sleep(1.1)  # a static program has the host's clock: then at least another second
    before, mask = dict(os.environ), os.umask(0o077)
    processors = os.sched_getaffinity(0)
    os.environ.update(VARIABLES)
    # What nproc(1) and so make -j count, unlike /proc/cpuinfo.
    os.sched_setaffinity(0, sorted(processors)[: max(1, len(processors) - 1)])
    try:
        with surroundings.within(other):
            yield
    finally:
        os.sched_setaffinity(0, processors)
        os.umask(mask)
        os.environ.clear()
        os.environ.update(before)


def _varied(other: Surroundings) -> dict[str, str]:
    """Return what differed in the second build, and how; what did not, and why."""
    assert other.witness
    if other.witness.exists():
        clock = f"{surroundings.LATER // 3600} hours later, by libfaketime; for static programs 1 s"
    elif other.clock:
        clock = "some seconds later: no program here takes the clock of libfaketime"
    else:
        clock = (
            "some seconds later: libfaketime is not installed (Debian: apt-get install faketime)"
        )
    count = len(os.sched_getaffinity(0))
    return {
        "clock": clock,
        "processors": f"{max(1, count - 1)} and {count}" if count > 1 else "1 here: the same",
        "host name": other.hostname,
        "zone": VARIABLES["TZ"],
        "locale": VARIABLES["LANG"],
        "user name": VARIABLES["USER"],
        "umask": "077",
        "directory": "another scratch directory",
        "order of files": "as the scratch's file system has it",
    }


def _differences(first: Path, second: Path, console: Console) -> int:
    """Tell of each path that differs; return how many there are."""
    if filecmp.cmp(first, second, shallow=False):
        return 0
    count = 0
    for count, change in enumerate(difference.differing_paths(first, second), 1):
        if count <= MOST_PATHS:
            details = [
                {"what": d.what, "first": str(d.was), "second": str(d.now)} for d in change.details
            ]
            console.difference(change.kind, change.shown, details)
    if not count:
        raise SingbuildError(
            "two builds of the recipe have one tree, and are not the same bytes",
            remedy="This is a bug in singbuild; please report it with the recipe.",
        )
    return count


def _differ(count: int) -> SingbuildError:
    return SingbuildError(
        f"two builds of the recipe differ in {count} path{'s' * (count != 1)}",
        why="They are listed above."
        if count <= MOST_PATHS
        else f"The first {MOST_PATHS} are listed above.",
        remedy="Look for dates, random numbers and downloads in %post; docs/reproducibility.md "
        "says what singbuild takes care of.",
    )
