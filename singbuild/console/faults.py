"""What went wrong in a build, as the user should read it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from singbuild import host
from singbuild.errors import HostError, RecipeKeyError, SingbuildError
from singbuild.plan.plan import Plan

KILLED = HostError(
    "the build was killed",
    why="Something sent it SIGKILL; often the kernel, out of memory.",
    remedy="dmesg tells whether it was the kernel. Nothing is left behind.",
)

_OF_LIMITS = (errno.EFBIG, errno.EMFILE, errno.EAGAIN, errno.ENOMEM)  # setrlimit(2)


def explained(
    error: SingbuildError | OSError | MemoryError, plan: Plan, places: Iterable[Path] = ()
) -> SingbuildError:
    """Return the error with its place in the recipe, or what the host's answer means.

    places: the directories that the build writes to, besides the cache.
    """
    if isinstance(error, RecipeKeyError):
        return plan.located(error)
    return plain(error, (plan.source.cache, *places))


def plain(error: SingbuildError | OSError | MemoryError, places: Iterable[Path]) -> SingbuildError:
    """Return the error, or what the host's answer means. places: the directories written to."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        full = min(places, key=host.free_bytes)
        remedy = "Free some space. SINGBUILD_TMPDIR and SINGBUILD_CACHEDIR name other places."
        return HostError(f"the disk that holds {full} is full", remedy=remedy)
    if isinstance(error, OSError | MemoryError):
        return of_host(error, "the host: ")
    return error


def of_host(error: OSError | MemoryError, place: str = "") -> HostError:
    """Return what a system call's error means. place: what is said where it names no file."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if error.errno == errno.ENOENT and not error.filename:
        try:
            Path.cwd()
        except FileNotFoundError:
            return HostError(
                "the current directory has been removed", remedy="Go to one that is there."
            )
    where = f"{error.filename}: " if error.filename else place
    remedy = "A limit may be too low: see ulimit -a." if error.errno in _OF_LIMITS else ""
    return HostError(f"{where}{error.strerror or error}", remedy=remedy)


def bug(error: Exception) -> SingbuildError:
    """Return what to say of an error that nobody thought of."""
    return SingbuildError(
        f"this is a bug in singbuild: {type(error).__name__}: {error}",
        remedy="Please report it with the lines above.",
    )
