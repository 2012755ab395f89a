"""Fills the cache of unpacked images, and keeps it small. Only who unpacks pays for this module.

An image is unpacked by debugfs or unsquashfs. Neither is made for hostile
images (debugfs writes through a name with ".." in it), so they run in a mount
namespace in which nothing can be written but the new directory.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import time

from singrun import syscalls
from singrun.config import Site
from singrun.errors import RunError, UnavailableError, say
from singrun.images.fuse import found
from singrun.images.image import EXT3, Image, open_image
from singrun.images.unpacked import ELSEWHERE, VARIABLE, check_executable, check_private, lookup
from singrun.mounts.table import attach, clone

_PROGRAMS = {EXT3: "debugfs", "squashfs": "unsquashfs"}
_PACKAGES = {"debugfs": "e2fsprogs", "unsquashfs": "squashfs-tools"}
# debugfs cannot give files to others, says so for each of them, and goes on.
_HARMLESS = (b"while changing ownership of", b"debugfs 1.", b"debugfs: ")
_TICK = 1.0  # seconds; at least the grain of a file's times, on network file systems too
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # <linux/proc_ns.h>, PROC_PID_INIT_INO
_FULL = f"Make room, or name another place: {VARIABLE}"


def check_usable(image: Image) -> None:
    """Refuse where the program that unpacks is missing."""
    name = _PROGRAMS[image.kind]
    if not found(name):
        remedy = f"Install the package {_PACKAGES[name]}."
        raise UnavailableError(f"{name} is not installed", why="It unpacks images.", remedy=remedy)


def fill(image: Image, site: Site) -> int:
    """Unpack the image, or wait for who does; a locked descriptor as lookup() gives it."""
    check_usable(image)
    cache = site.cache
    _make(cache)
    _check_settled(image)
    while (done := lookup(image, site)) < 0:
        lock = _locked(f"{cache}/{image.stamp}.new")
        if lock < 0:
            continue
        try:
            if os.path.lexists(f"{cache}/{image.stamp}"):  # since we looked
                _remove(f"{cache}/{image.stamp}.new")
            else:
                _fill_locked(image, cache, limit=size_in_bytes(site))
        finally:
            os.close(lock)
    return done


def _make(cache: str) -> None:
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
    except OSError as error:
        what, why = f"Cannot make the cache {cache}", f"{error.strerror}."
        raise RunError(what, why=why, remedy=ELSEWHERE) from None
    check_private(cache)
    check_executable(cache, ELSEWHERE)


def size_in_bytes(site: Site) -> int:
    """Return the cache's limit: a number and K, M, G or T."""
    word = os.environ.get("SINGRUN_CACHESIZE") or site.word["cache size"]
    number, unit = word.rstrip("KMGTkmgt"), word[-1:].upper()
    if not number.isdigit() or len(word) - len(number) > 1:
        raise RunError(f"Cannot understand the cache size {word}", remedy="Say for instance 20G.")
    return int(number) * _UNITS.get(unit, 1)


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
            return fd
    os.close(fd)
    return -1


def _fill_locked(image: Image, cache: str, limit: int) -> None:
    new = f"{cache}/{image.stamp}.new"
    _empty(new)  # of what a killed process has left
    os.mkdir(f"{new}/tree", 0o700)
    try:
        prune(cache, limit - os.fstat(image.fd).st_blocks * 512)
        _unpack(image, f"{new}/tree")
        _check_unchanged(image)
        with open(f"{new}/size", "w") as file:
            file.write(str(_size(new)))
        os.rename(new, f"{cache}/{image.stamp}")
    except BaseException:
        _remove(new)
        raise


def _check_unchanged(image: Image) -> None:
    if open_image(image.path).stamp != image.stamp:
        why, remedy = "It changed while it was unpacked.", "Try again when it is complete."
        raise RunError(f"Cannot unpack {image.path}", why=why, remedy=remedy)


def _unpack(image: Image, tree: str) -> None:
    name = _PROGRAMS[image.kind]
    source = f"/proc/self/fd/{image.fd}"
    words = [found(name), "-R", "rdump / .", f"{source}?offset={image.offset}"]
    if image.kind != EXT3:
        words = [found(name), "-no-progress", "-no-xattrs", "-f", "-d", ".", source]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _become_unpacker(image, tree, writing, words)
    os.close(writing)
    with os.fdopen(reading, "rb") as output:
        said = [line.strip() for line in output if not _is_harmless(line)]
    status = os.waitpid(child, 0)[1]
    if status or (said and image.kind == EXT3):
        why = b" ".join(said[:3]).decode(errors="replace") or f"{name} ended with {status}."
        remedy = f"Check it with: e2fsck -fn {image.path}"
        if "No space" in why or "quota" in why:
            remedy = _FULL
        raise RunError(f"Cannot unpack {image.path}", why=why, remedy=remedy)
    if not os.listdir(tree):
        raise RunError(f"Cannot unpack {image.path}", why=f"{name} found nothing in it.")


def _is_harmless(line: bytes) -> bool:
    return not line.strip() or any(words in line for words in _HARMLESS)


def _become_unpacker(image: Image, tree: str, output: int, words: list[str]) -> None:
    """Execute ``words`` where only ``tree`` can be written. Does not return."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        own = clone(tree)
        flags = syscalls.AT_RECURSIVE
        syscalls.mount("tmpfs", "/dev", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV)
        only_read = syscalls.MOUNT_ATTR_RDONLY
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", flags, attr_set=only_read)
        attach(own, tree)
        os.chdir(tree)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.set_inheritable(image.fd, True)
        os.execve(words[0], words, {"LC_ALL": "C", "PATH": os.path.dirname(words[0])})
    except OSError as error:
        say(f"Cannot start {words[0]}: {error}")
    finally:
        os._exit(1)


def prune(cache: str, limit: int) -> None:
    """Take away the trees that were not used for longest until all others fit into ``limit`` bytes.

    What another PID namespace uses cannot be seen from inside one, so there nothing is removed.
    """
    if os.readlink("/proc/self/ns/pid") != _FIRST_PID_NAMESPACE:
        return
    used = _mounted(cache)
    entries = sorted(_entries(cache))
    total = sum(size for _, size, _ in entries)
    for _, size, name in entries:
        if total <= limit:
            return
        if name not in used and _take_away(f"{cache}/{name}"):
            total -= size


def _entries(cache: str) -> list[tuple[int, int, str]]:
    """(time of last use, bytes, name) of each complete tree; sweeps what killed processes left."""
    found_here = []
    for entry in os.scandir(cache):
        if entry.name.endswith((".new", ".old")):
            _sweep(entry.path)
            continue
        try:
            with open(f"{entry.path}/size") as file:
                size = int(file.read())
            found_here.append((entry.stat().st_mtime_ns, size, entry.name))
        except (OSError, ValueError):
            continue
    return found_here


def _sweep(path: str) -> None:
    """Remove an unfinished directory that nobody works on."""
    if _lock_alone(path) >= 0:
        _remove(path)


def _lock_alone(path: str) -> int:
    """Return a descriptor that holds the only lock on ``path``, -1 if others hold one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return -1
    return fd


def _take_away(path: str) -> bool:
    fd = _lock_alone(path)
    if fd < 0:
        return False
    if os.path.basename(path) in _mounted(os.path.dirname(path)):
        os.close(fd)
        return False
    os.rename(path, f"{path}.old")
    _remove(f"{path}.old")
    os.close(fd)
    return True


def _mounted(cache: str) -> set[str]:
    """Names of the trees that are mounted in any process of this user. proc(5), mountinfo."""
    needle = os.fsencode(f"{os.path.basename(cache)}/")
    names = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                roots = [line.split(b" ", 4)[3] for line in file if needle in line]
        except OSError:
            continue
        names |= {os.fsdecode(root.rpartition(needle)[2].partition(b"/")[0]) for root in roots}
    return names


def _size(path: str) -> int:
    """Bytes on disk of all below ``path``."""
    total = 0
    for where, directories, files in os.walk(path):
        for name in (*directories, *files):
            total += os.lstat(f"{where}/{name}").st_blocks * 512
    return total


def _empty(path: str) -> None:
    for name in os.listdir(path):
        _remove(f"{path}/{name}")


def _remove(path: str) -> None:
    """Remove a file or a tree, directories without write permission too."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for where, directories, _ in os.walk(path):
        for name in directories:
            if not os.path.islink(f"{where}/{name}"):
                os.chmod(f"{where}/{name}", 0o700)
    shutil.rmtree(path)
