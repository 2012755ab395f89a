"""Where a build keeps things outside the image: scratch, cache, logs; and whose cache it trusts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from singbuild.configuration import reading
from singbuild.errors import HostError

UNMAPPED = 65534  # an owner whose id is not mapped into this user namespace: user_namespaces(7)
_cache_fd: list[int] = []  # the cache's descriptor, while this process lives


def scratch_parent() -> Path:
    """Return where scratch directories are made: SINGBUILD_TMPDIR, TMPDIR, else /var/tmp.

    APPTAINER_TMPDIR and SINGULARITY_TMPDIR count where the first is not set, and configuration
    files where no variable is.
    """
    return Path(reading.current().value("scratch directory").text).absolute()


def cache_directory() -> Path:
    """Return where downloads are kept: SINGBUILD_CACHEDIR, else as configured.

    The built-in place is in the user's cache directory. Raises HostError when it is somebody
    else's.
    """
    value = reading.current().value("cache directory")
    if value.source == reading.BUILT_IN:
        path = _owned(platformdirs.user_cache_path("singbuild"), ".cache/singbuild")
    else:
        path = Path(value.text).absolute()
    _check_private(path)
    return path


def make_in_cache(directory: Path) -> None:
    """Make a directory of the cache, which nobody else may enter. Raises OSError."""
    cache = cache_directory()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        cache.mkdir(mode=0o700)
    if "SINGBUILD_CACHEDIR" not in os.environ:
        _close_to_others(cache)  # it was open to all in earlier versions
    directory.mkdir(parents=True, exist_ok=True)
    _hold_cache(cache)


def _close_to_others(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _hold_cache(cache: Path) -> None:
    """Hold a shared lock on the cache while this process lives; whole_cache is refused then."""
    if not _cache_fd:
        with contextlib.suppress(OSError):  # some file systems of clusters know no locks
            _cache_fd.append(os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fcntl.flock(_cache_fd[0], fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def whole_cache() -> Iterator[None]:
    """Hold the cache alone for the time of a with-block. Raises HostError while a build uses it."""
    try:
        fd = os.open(cache_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # nothing was ever kept
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"the cache {cache_directory()} is in use by a build",
                remedy="Wait for the build to end. `singbuild cache prune` drops stages meanwhile.",
            ) from None
        yield
    finally:
        os.close(fd)


def _check_private(cache: Path) -> None:
    """Refuse a cache that another user could fill, or put in its place: what is in it is trusted.

    For root that goes for the owners of the directories above, too, who could rename it. Others may
    write to those: a CI's workspace in a container has mode 0777. Raises HostError.
    """
    above = cache.parents if os.geteuid() == 0 else ()
    for place in (cache, *above):
        try:
            # The cache itself may be no link, which whoever owns the link could turn; above it they
            # are usual: /home.
            status = place.lstat() if place == cache else place.stat()
        except OSError:
            continue  # made by us, or not there
        why, remedy = "", "Name a directory of your own: SINGBUILD_CACHEDIR=/some/directory"
        if not stat.S_ISDIR(status.st_mode):
            why = f"{place} is no directory"
        # In a container / and /home are often of the host's root, who has no id there.
        elif status.st_uid not in (0, os.geteuid(), UNMAPPED if place != cache else 0):
            why = f"{place} belongs to another user"
        elif place == cache and status.st_mode & 0o022:
            why = f"others may write to {place}"  # as mkdir(1) makes it under the umask 002
            remedy = f"If only you have: chmod go-w {place}. {remedy}"
        if why:
            raise HostError(
                f"the cache {cache} cannot be trusted",
                why=why,
                remedy=remedy,
            )


def log_directory() -> Path:
    """Return where the logs of failed builds are kept: the user's state directory."""
    return _owned(platformdirs.user_state_path("singbuild"), ".local/state/singbuild") / "log"


def _owned(path: Path, below_home: str) -> Path:
    """Return a directory of the caller's, or root's own for root with another's HOME: sudo -E.

    Else that user's later builds would find directories that they may not write.
    """
    if os.geteuid():
        return path
    there = next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110
    if there.stat().st_uid in (0, UNMAPPED):
        return path
    return Path(pwd.getpwuid(0).pw_dir) / below_home
