"""Fills the cache of unpacked images, and keeps it small. Only who unpacks pays for this module."""

import contextlib
import errno
import fcntl
import os
import stat
import time

from singrun.config import Site
from singrun.errors import RunError
from singrun.images import unpacker
from singrun.images.fuse import host_program
from singrun.images.image import Image, identify
from singrun.images.unpacked import (
    ELSEWHERE,
    check_executable,
    is_whole,
    lookup,
    open_private,
    this_boot,
)
from singrun.mounts import mountinfo

_TICK = 1.0  # seconds; at least the grain of a file's times, on network file systems too
_TRIES = 40  # to remove a tree; what is killed has ended by then, but for a file server's sake
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # <linux/proc_ns.h>, PROC_PID_INIT_INO


def fill(image: Image, site: Site) -> int:
    """Unpack the image, or wait for the process that does; return a descriptor as lookup() does."""
    unpacker.check_usable(image)
    cache_fd = _make_cache(site.cache)
    cache = f"/proc/self/fd/{cache_fd}"  # whatever the name comes to mean
    _check_settled(image)
    while (done := lookup(image, site)) < 0:
        lock = _locked(f"{cache}/{image.stamp}.new")
        if lock < 0:
            continue
        try:
            if os.path.lexists(f"{cache}/{image.stamp}"):  # since we looked
                remove(f"{cache}/{image.stamp}.new")
                _take_away_lost(f"{cache}/{image.stamp}", site.cache)
            else:
                _fill_locked(image, cache, site)
        finally:
            os.close(lock)
    os.close(cache_fd)
    return done


def _make_cache(cache: str) -> int:
    """Return a descriptor of the cache, made if need be."""
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
    except OSError as error:
        what, why = f"Cannot make the cache {cache}", f"{error.strerror}."
        raise RunError(what, why=why, remedy=ELSEWHERE) from None
    cache_fd = open_private(cache)
    check_executable(cache, ELSEWHERE)
    return cache_fd


def _check_settled(image: Image) -> None:
    """Wait until a further change would show in the file's times."""
    while 0 <= time.time() - os.fstat(image.fd).st_ctime < _TICK:
        time.sleep(_TICK / 20)


def _locked(path: str) -> int:
    """Make the directory ``path`` and lock it; -1 when another process was done with it first."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    fcntl.flock(fd, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(fd)):
            return _inherited(fd)
    os.close(fd)
    return -1


def _fill_locked(image: Image, cache: str, site: Site) -> None:
    new = f"{cache}/{image.stamp}.new"
    _empty(new)  # of what a killed process has left
    os.mkdir(f"{new}/tree", 0o700)
    try:
        limit = site.cache_size
        prune(cache, site.cache, limit - os.fstat(image.fd).st_blocks * 512)
        name = f"{site.cache}/{image.stamp}.new/tree"
        unpacker.unpack(image, f"{new}/tree", name, limit)
        _check_unchanged(image)
        with open(f"{new}/size", "w") as file:
            file.write(str(unpacker.measured(new).size))
        with open(f"{new}/image", "wb") as file:
            file.write(os.fsencode(image.path))
        with open(f"{new}/boot", "w") as file:
            file.write(this_boot())
        os.rename(new, f"{cache}/{image.stamp}")
    except BaseException:
        remove(new)
        raise


def _take_away_lost(path: str, cache: str) -> None:
    """Remove a tree whose files a crash of the host may have emptied."""
    with contextlib.suppress(FileNotFoundError):
        fd = open_private(path)
        is_lost = not is_whole(fd)
        os.close(fd)
        if is_lost:
            take_away(path, cache)


def _check_unchanged(image: Image) -> None:
    again = identify(image.path)
    os.close(again.fd)
    if again.stamp != image.stamp:
        why, remedy = "It changed while it was unpacked.", "Try again when it is complete."
        raise RunError(f"Cannot unpack {image.path}", why=why, remedy=remedy)


def prune(cache: str, name: str, limit: int) -> None:
    """Take away the trees that were not used for longest until all others fit into ``limit`` bytes.

    name: of the cache, as it is seen in mountinfo. From inside a PID namespace the processes of
    others, which may use a tree, cannot be seen: nothing is removed there.
    """
    if not sees_users():
        return
    used = _mounted(name)
    entries = sorted(trees(cache))
    total = sum(size for _, size, _ in entries)
    for _, size, tree in entries:
        if total <= limit:
            return
        if tree not in used and take_away(f"{cache}/{tree}", name):
            total -= size


def sees_users() -> bool:
    """Whether all processes can be seen that may use a tree: not from inside a PID namespace."""
    return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE


def trees(cache: str) -> list[tuple[int, int, str]]:
    """Return each complete tree: time of last use in ns, bytes, name.

    What killed processes left is swept.
    """
    complete = []
    for entry in os.scandir(cache):
        if entry.name.endswith((".new", ".old")):
            _sweep(entry.path)
            continue
        try:
            with open(f"{entry.path}/size") as file:
                size = int(file.read())
            complete.append((entry.stat().st_mtime_ns, size, entry.name))
        except (OSError, ValueError):
            continue
    return complete


def _sweep(path: str) -> None:
    """Remove an unfinished directory that nobody works on."""
    fd = _lock_alone(path)
    if fd >= 0:
        try:
            remove(path)
        finally:
            os.close(fd)


def _lock_alone(path: str) -> int:
    """Return a descriptor that holds the only lock on ``path``, -1 if others hold one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return -1
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _inherited(fd)
    os.close(fd)
    return -1


def _inherited(lock: int) -> int:
    """Let chmod(1) and rm(1) hold a lock too: they work on when who waits for them is killed."""
    os.set_inheritable(lock, True)
    return lock


def take_away(path: str, cache: str) -> bool:
    """Remove a tree; False if somebody uses it. cache: its name as mountinfo has it."""
    fd = _lock_alone(path)
    if fd < 0:
        return False
    old = f"{path}.old"
    try:
        if os.path.basename(path) in _mounted(cache):
            return False
        _sweep(old)  # what a killed removal has left; one that goes on keeps the name
        if os.path.lexists(old):
            return False
        # Killed half way, a removal must leave no part of a tree under a name that launches trust.
        os.rename(path, old)
        remove(old)
    finally:
        os.close(fd)
    return True


def _mounted(cache: str) -> set[str]:
    """Names of the trees that are mounted in any process of this user. proc(5), mountinfo."""
    needle = mountinfo.escaped(os.fsencode(f"{os.path.basename(cache)}/"))
    names = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                roots = [line.split(b" ", 4)[3] for line in file if needle in line]
        # It has ended; for a zombie open(2) gives EINVAL.
        except OSError:
            continue
        names |= {os.fsdecode(root.rpartition(needle)[2].partition(b"/")[0]) for root in roots}
    return names


def _empty(path: str) -> None:
    for name in os.listdir(path):
        remove(f"{path}/{name}")


def remove(path: str) -> None:
    """Remove a file or a tree, however deep, directories without write permission too.

    The program of a killed process may write there until the kernel has ended it, too.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for _ in range(_TRIES):
        _remove_tree(path)
        if not os.path.lexists(path):
            return
        time.sleep(_TICK / 20)
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)


def _remove_tree(path: str) -> None:
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    os.set_inheritable(parent, True)
    name = f"/proc/self/fd/{parent}/{os.path.basename(path)}"
    quiet = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    # shutil.rmtree() fails in deep trees: https://github.com/python/cpython/issues/89727.
    for words in (["chmod", "-R", "u+rwX", "--", name], ["rm", "-rf", "--", name]):
        child = os.posix_spawn(host_program(words[0]), words, {"LC_ALL": "C"}, file_actions=quiet)
        os.waitpid(child, 0)
    os.close(parent)
