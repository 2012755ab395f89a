"""The one owner of paths outside the image: scratch directory, part file, log, cache.

Whatever a build keeps on disk while it works is locked (flock(2)) by the build.
A lock goes with its process, even by SIGKILL, so the next build can tell
left-overs from work in progress and sweeps them.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TextIO

import platformdirs

from singbuild import command
from singbuild.errors import HostError, ImageError
from singbuild.privilege import namespace, subordinate

PREFIX = "singbuild-scratch-"
KEPT_LOGS = 20
UNMAPPED = 65534  # whose id has none in this user namespace: user_namespaces(7)


def scratch_parent() -> Path:
    """Return where scratch directories are made: SINGBUILD_TMPDIR, TMPDIR, else /var/tmp.

    APPTAINER_TMPDIR and SINGULARITY_TMPDIR count where the first is not set.
    """
    names = ("SINGBUILD_TMPDIR", "APPTAINER_TMPDIR", "SINGULARITY_TMPDIR", "TMPDIR")
    chosen = next(filter(None, map(os.environ.get, names)), "/var/tmp")  # noqa: S108
    return Path(chosen).absolute()


def cache_directory() -> Path:
    """Return where downloads are kept: SINGBUILD_CACHEDIR, else the user's cache directory.

    In those of APPTAINER_CACHEDIR and SINGULARITY_CACHEDIR, which their own programs fill as
    well, a directory of its own. Raises HostError when it is somebody else's.
    """
    theirs = os.environ.get("APPTAINER_CACHEDIR") or os.environ.get("SINGULARITY_CACHEDIR")
    if chosen := os.environ.get("SINGBUILD_CACHEDIR"):
        path = Path(chosen).absolute()
    elif theirs:  # beside what they keep there
        path = Path(theirs, "singbuild").absolute()
    else:
        path = _owned(platformdirs.user_cache_path("singbuild"), ".cache/singbuild")
    _check_private(path)
    return path


def make_in_cache(directory: Path) -> None:
    """Make a directory of the cache, which nobody else may enter. Raises OSError."""
    cache = cache_directory()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        cache.mkdir(mode=0o700)
    if "SINGBUILD_CACHEDIR" not in os.environ:
        cache.chmod(0o700)  # it was open to all in earlier versions
    directory.mkdir(parents=True, exist_ok=True)
    _hold_cache(cache)


_held: list[int] = []


def _hold_cache(cache: Path) -> None:
    """Hold a shared lock on the cache while this process lives; whole_cache is refused then."""
    if not _held:
        with contextlib.suppress(OSError):  # some file systems of clusters know no locks
            _held.append(os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fcntl.flock(_held[0], fcntl.LOCK_SH | fcntl.LOCK_NB)


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

    Root asks whose the directories above are, too: their owner could rename it. That others may
    write to those is taken as it is: a CI's workspace in a container has mode 0777. HostError.
    """
    above = cache.parents if os.geteuid() == 0 else ()
    for place in (cache, *above):
        try:
            status = place.lstat() if place == cache else place.stat()
        except OSError:
            continue  # made by us, or not there
        why, remedy = "", "Name a directory of your own: SINGBUILD_CACHEDIR=/some/directory"
        if not stat.S_ISDIR(status.st_mode):
            why = f"{place} is no directory"
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


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a private, locked scratch directory for the time of a with-block; sweep dead ones.

    Before, for their room; and after, since a build killed a moment ago ends process by process.
    Raises HostError when it cannot be made.
    """
    parent = scratch_parent()
    sweep_scratch(parent)
    try:
        lock, made = _new_scratch(parent)
    except OSError as error:
        raise HostError(
            f"no scratch directory can be made in {parent}",
            why=str(error.strerror),
            remedy="Set SINGBUILD_TMPDIR to a directory on a local disk that you may write.",
        ) from error
    try:
        yield made
    finally:
        remove_tree(made)
        os.close(lock)
        sweep_scratch(parent)


def _new_scratch(parent: Path) -> tuple[int, Path]:
    """Make a private directory; its lock, and where it is."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        _forget_parent(made)
        lock = os.open(made / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if _is_kept(lock):
            return lock, made
        os.close(lock)


def _is_kept(fd: int) -> bool:
    """Lock a new file; False: another build swept it before."""
    with contextlib.suppress(OSError):  # some file systems of clusters know no locks
        fcntl.flock(fd, fcntl.LOCK_EX)
    return os.fstat(fd).st_nlink > 0


def _forget_parent(made: Path) -> None:
    """Take away what a shared directory hands down: its group and its access control lists."""
    os.chown(made, -1, os.getegid())
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):
            os.removexattr(made, name)
    made.chmod(0o700)


def remove_tree(directory: Path) -> None:
    """Remove a directory of the caller's, however deep, and also what is closed to its owner.

    What belongs to the caller's subordinate ids goes as well.
    """
    if os.geteuid():
        command.call(["chmod", "-R", "u+rwX", "--", directory])
    command.call(["rm", "-rf", "--", directory])
    if directory.exists() and os.geteuid() and (ids := subordinate.ranges()):
        namespace.as_owner(ids, lambda: command.call(["rm", "-rf", "--", directory]).status)


def sweep_scratch(parent: Path) -> None:
    """Remove our own scratch directories under ``parent`` whose builds are dead."""
    for found in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            found_mode = found.lstat()
            if found_mode.st_uid != os.geteuid() or found_mode.st_mode != stat.S_IFDIR | 0o700:
                continue
            lock = _locked(found / "lock", os.O_RDWR)
            if lock is not None:
                remove_tree(found)
                os.close(lock)


def resolved(target: Path) -> Path:
    """Return what a name of a target stands for: a link that names it stays.

    Raises ImageError for a link that another user has put into a directory of all, as the kernel
    does by default (proc(5), protected_symlinks).
    """
    if target.is_symlink():
        link, parent = target.lstat(), target.parent.stat()
        shared = parent.st_mode & 0o002 and parent.st_mode & stat.S_ISVTX
        if shared and link.st_uid not in (os.geteuid(), parent.st_uid):
            raise ImageError(
                f"{target} is another user's link in a directory of all",
                remedy="Remove it, or name another target.",
            )
    return target.resolve() if os.path.lexists(target) else target.absolute()


class Part:
    """A locked file beside a target, on its way to become it.

    path: its name, for who writes it. Whoever owns the directory can put something else there, so
    mode, owner and content that is copied go to the file itself, and what has its name in the end
    must be that file.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd, self._status = path, fd, os.fstat(fd)

    def opened(self) -> BinaryIO:
        """Open the file for reading and writing. Raises ImageError when its name is another's."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.fdopen(os.open(self.path, flags), "r+b")
        except OSError:
            raise self._replaced() from None
        if not os.path.samestat(os.fstat(file.fileno()), self._status):
            file.close()
            raise self._replaced()
        return file

    def copy_from(self, source: Path) -> None:
        """Fill it with a copy of the image ``source``."""
        with source.open("rb") as readable, self.opened() as file:
            os.fchmod(file.fileno(), 0o755)
            file.truncate()
            shutil.copyfileobj(readable, file)

    def chmod(self, mode: int) -> None:
        """Set its mode. Only in the process that made it."""
        os.fchmod(self._fd, mode)

    def take_over(self, replaced: os.stat_result) -> None:
        """Give it the mode of the file that it replaces, and the owner if we may; likewise."""
        with contextlib.suppress(PermissionError):
            os.fchown(self._fd, replaced.st_uid if os.geteuid() == 0 else -1, replaced.st_gid)
        self.chmod(replaced.st_mode & 0o777)  # no set-id bits

    def check_at(self, path: Path) -> None:
        """Raise ImageError when ``path`` does not name this file."""
        try:
            if os.path.samestat(path.lstat(), self._status):
                return
        except OSError:
            pass
        raise self._replaced()

    def _replaced(self) -> ImageError:
        return ImageError(
            f"{self.path} was replaced by another process",
            why="Nothing is written to what is there now.",
            remedy="Name a target in a directory that only you may write.",
        )


@contextlib.contextmanager
def part_file(target: Path) -> Iterator[Part]:
    """Make an empty, locked file beside ``target`` to write the image to; sweep dead ones.

    It is gone after the with-block unless it was renamed. Raises ImageError when
    the target's directory cannot be written.
    """
    pattern = f".{glob.escape(target.name)}.*.part"
    sweep_parts(target.parent, pattern)
    try:
        fd, path = _new_part(target)
    except OSError as error:
        raise ImageError(
            f"the image {target} cannot be written",
            why=f"{target.parent}: {error.strerror}",
            remedy="Name a target in a directory that exists and that you may write.",
        ) from error
    try:
        yield Part(path, fd)
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)
        sweep_parts(target.parent, pattern)


def sweep_parts(directory: Path, pattern: str) -> None:
    """Remove the part files in a directory, by glob pattern, whose writers are dead."""
    for found in directory.glob(pattern):
        with contextlib.suppress(OSError):
            dead = _locked(found, os.O_RDWR | os.O_NOFOLLOW)
            if dead is not None:
                found.unlink()
                os.close(dead)


def _new_part(target: Path) -> tuple[int, Path]:
    while True:
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        if _is_kept(fd):
            return fd, Path(name)
        os.close(fd)


def rename_into_place(part: Part, target: Path, *, replace: bool = True) -> None:
    """Make the finished file the target, all at once and lasting: rename(2) between fsync(2).

    replace: whether a target that is there may go. Raises ImageError when it may not.
    """
    with part.opened() as file:
        os.fsync(file.fileno())
        if replace:
            part.path.rename(target)
        else:
            _link_into_place(file.fileno(), part.path, target)
        part.check_at(target)
    _sync(target.parent)


def _link_into_place(fd: int, path: Path, target: Path) -> None:
    try:
        os.link(f"/proc/self/fd/{fd}", target, follow_symlinks=True)  # linkat(2), AT_SYMLINK_FOLLOW
    except FileExistsError as error:
        raise ImageError(
            f"{target} appeared while the image was built",
            remedy="Name another target, or replace this one with --force.",
        ) from error
    except OSError:  # a file system without hard links
        path.rename(target)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass
class Log:
    """The log of one build. keep: whether it stays after the with-block."""

    path: Path
    file: TextIO
    keep: bool = True


@contextlib.contextmanager
def log_file(image: Path) -> Iterator[Log]:
    """Open a log for one build, readable by its user only; old ones are pruned."""
    prefix = f"{image.name[:100]}-{datetime.now():%Y%m%d-%H%M%S}-"
    directory = log_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _prune_logs(directory)
        fd, name = tempfile.mkstemp(prefix=prefix, suffix=".log", dir=directory)
    except OSError:  # a home that cannot be written: a service user's, or root's after sudo
        fd, name = tempfile.mkstemp(prefix=prefix, suffix=".log")
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        log = Log(Path(name), file)
        yield log
    if not log.keep:
        log.path.unlink(missing_ok=True)


def _prune_logs(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another build prunes at the same time
        for old in sorted(directory.glob("*.log"), key=_age)[:-KEPT_LOGS]:
            old.unlink(missing_ok=True)


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _locked(path: Path, flags: int) -> int | None:
    """Open and lock a file; None when somebody alive holds it."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
