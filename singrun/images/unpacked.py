"""The cache of unpacked images: found here, filled by unpacking.py.

    CACHE/                      0700, the user's own: Site.cache
        STAMP/                  one image as it was: see Image.stamp
            tree/               its files
            size                how many bytes they take
            image               the path of the image, when it was unpacked
            boot                the host and its boot, while the files may be in memory only
        STAMP.new/              being unpacked, by whoever holds the lock on it

A directory gets its final name when it is complete. Its time of change is the
time of its last use. Who starts a program from a tree holds a shared lock on
STAMP until the tree is mounted; unpacking.py takes away no tree that is
locked or mounted anywhere.
"""

import errno
import fcntl
import os
import time

from singrun.config import Site
from singrun.errors import UnavailableError
from singrun.images.image import Image

VARIABLE = "SINGRUN_CACHEDIR=/some/local/directory"
_WRITEBACK = 3600  # seconds; the kernel writes a file after 30: vm.dirty_expire_centisecs
ELSEWHERE = f"Name another place for unpacked images: {VARIABLE}"


def lookup(image: Image, site: Site) -> int:
    """Return a locked descriptor of the image's directory in the cache, -1 if it is not there."""
    if not image.stamp:
        return -1
    try:
        cache = open_private(site.cache)
    except FileNotFoundError:
        return -1
    try:
        fd = open_private(image.stamp, cache, name=f"{site.cache}/{image.stamp}")
    except FileNotFoundError:
        os.close(cache)
        return -1
    fcntl.flock(fd, fcntl.LOCK_SH)
    is_usable = _is_still(image.stamp, cache, fd) and is_whole(fd)
    os.close(cache)
    if not is_usable:
        os.close(fd)
        return -1
    os.utime(fd)
    return fd


def is_whole(directory: int) -> bool:
    """Whether the files of a tree cannot have been lost by a crash of the host since.

    Nobody waits for the disk when an image is unpacked: that would double the first start of a
    large one. A file that is whole in memory is then empty after a crash, under its final name.
    """
    try:
        with open(os.open("boot", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)) as file:
            unpacked_by, age = file.read(), time.time() - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return True
    # Of another host, the file system is one that they share, and its server has the files.
    if not unpacked_by or (unpacked_by != this_boot() and unpacked_by.startswith(_host())):
        return False
    if age > _WRITEBACK:
        try:  # noqa: SIM105  contextlib costs a launch more
            os.unlink("boot", dir_fd=directory)
        except FileNotFoundError:  # a launch beside this one did
            pass
    return True


def this_boot() -> str:
    """Return the host's name and its kernel's boot id."""
    return _host() + boot_id()


def boot_id() -> str:
    """Return what tells this boot of the kernel from all others. random(4)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _host() -> str:
    return f"{os.uname().nodename} "


def open_private(path: str, parent: "int | None" = None, *, name: str = "") -> int:
    """Open a directory of the cache, or the cache; refuse one that another user could fill.

    parent: a descriptor of the directory that it is in. name: for the user. Raises
    UnavailableError, FileNotFoundError if there is none.
    """
    why = ""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise  # there is none, or too many files are open
        fd, why = -1, "It is a link, or not your directory."
    if fd >= 0:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            why = "It is not your directory."
        elif status.st_mode & 0o022:
            why = "Others may write to it."
    if why:
        if fd >= 0:
            os.close(fd)
        remedy = f"Name a directory of your own: {VARIABLE}"
        raise UnavailableError(f"Cannot use the cache {name or path}", why=why, remedy=remedy)
    return fd


def is_noexec(path: str) -> bool:
    """Whether the kernel starts no program from ``path``. mount(8), noexec."""
    return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)


def check_executable(path: str, remedy: str) -> None:
    """Refuse a directory that is mounted noexec, and name the mount. UnavailableError."""
    if not is_noexec(path):
        return
    place = os.path.realpath(path)
    while place != "/" and is_noexec(os.path.dirname(place)):
        place = os.path.dirname(place)
    why = f"{place} is mounted noexec, so the kernel starts no program there."
    raise UnavailableError(f"Cannot run programs in {path}", why=why, remedy=remedy)


def _is_still(name: str, parent: int, fd: int) -> bool:
    """Whether nobody took it away between open and lock."""
    try:
        return os.path.samestat(os.lstat(name, dir_fd=parent), os.fstat(fd))
    except FileNotFoundError:
        return False
