"""Runs debugfs or unsquashfs on an image that may be hostile.

Neither is made for such (debugfs writes through a name with ".." in it, and follows a directory
that holds itself for ever), so they run in a mount namespace in which nothing can be written but
the new directory, and are ended when it outgrows what the image's superblock allows.
"""

import contextlib
import errno
import os
import resource
import select
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from singrun import syscalls
from singrun.errors import RunError, UnavailableError, say
from singrun.images.fuse import host_program
from singrun.images.image import EXT3, Image, ext3_length
from singrun.images.unpacked import VARIABLE
from singrun.mounts.rows import attach, clone

_PROGRAMS = {EXT3: "debugfs", "squashfs": "unsquashfs"}
_PACKAGES = {"debugfs": "e2fsprogs", "unsquashfs": "squashfs-tools"}
# debugfs cannot give files to others, says so for each of them, and goes on.
_HARMLESS = (b"while changing ownership of", b"debugfs 1.", b"debugfs: ")
_FULL = f"Make room, or name another place: {VARIABLE}"
# Holes become zeros, and hard links copies.
_HOLES, _COPIES = 1 << 30, 2  # bytes; times what the file system holds
_LINKS, _NAMES = 16, 100_000  # names of one file on the average, and in any case
_TIME, _SPEED = 600, 1 << 20  # seconds in any case, and bytes of the image a second
_LEAST_PAUSE, _LONGEST_LINE, _LINES_SHOWN = 0.5, 1 << 12, 3  # seconds; bytes
_PAUSES = 4  # times as long as the look before it: looks take a fifth of the time at most


class Amount(NamedTuple):
    """What a tree takes, or the most that it may: bytes on disk, entries, directories of them."""

    size: int
    entries: int
    directories: int


def check_usable(image: Image) -> None:
    """Refuse where the program that unpacks is missing."""
    name = _PROGRAMS[image.kind]
    if not host_program(name):
        remedy = f"Install the package {_PACKAGES[name]}."
        raise UnavailableError(f"{name} is not installed", why="It unpacks images.", remedy=remedy)


def unpack(image: Image, tree: str, name_of_tree: str, most: int) -> None:
    """Fill the empty directory ``tree``.

    tree: by way of a descriptor; name_of_tree: its path, for another mount namespace. most: bytes,
    where the image does not say how many it may take.
    """
    name = _PROGRAMS[image.kind]
    source = "/proc/self/fd/0"
    words = [host_program(name), "-R", "rdump / .", f"{source}?offset={image.offset}"]
    if image.kind != EXT3:
        words = [host_program(name), "-no-progress", "-no-xattrs", "-f", "-d", ".", source]
        words[1:1] = ["-offset", str(image.offset)] if image.offset else []
    bounds = _bounds(image, most)
    reading, writing = os.pipe()
    parent, child = os.getpid(), os.fork()
    if not child:
        _become_unpacker(parent, image, (tree, name_of_tree), writing, words, bounds)
    os.close(writing)
    try:
        output = _read_output(reading, tree, bounds, time.monotonic() + _longest(image))
    except RunError as error:
        os.kill(child, 9)
        error.what = f"Cannot unpack {image.path}"
        raise
    finally:
        os.close(reading)
        status = os.waitpid(child, 0)[1]
    if status or (output and image.kind == EXT3):
        why = (
            b" ".join(dict.fromkeys(output)).decode(errors="replace")
            or f"{name} ended with {status}."
        )
        remedy = image.remedy
        if "No space" in why or "quota" in why:
            remedy = _FULL
        raise RunError(f"Cannot unpack {image.path}", why=why, remedy=remedy)
    if not os.listdir(tree):
        raise RunError(f"Cannot unpack {image.path}", why=f"{name} found nothing in it.")
    _drop_set_ids(tree)


def measured(path: str) -> Amount:
    """Return what all below ``path`` takes, perhaps while it grows."""
    size = entries = directories = 0
    for _, _, status in _entries(path):
        size += status.st_blocks * 512
        entries += 1
        directories += stat.S_ISDIR(status.st_mode)
    return Amount(size, entries, directories)


def _entries(path: str) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yield all below ``path``: the directory that it is in, its name there, its status.

    However deep: os.walk() calls itself, and so has an end to that. Directories are opened from
    ``path`` on, as the program does that makes them: no path is too long here that is not there.
    """
    top = os.open(path, os.O_PATH | os.O_DIRECTORY)
    waiting = ["."]
    while waiting:
        place = waiting.pop()
        with contextlib.suppress(OSError):  # gone meanwhile
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):
                            yield directory, entry.name, entry.stat(follow_symlinks=False)
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append(f"{place}/{entry.name}")
            finally:
                os.close(directory)
    os.close(top)


def _bounds(image: Image, most: int) -> Amount:
    """Return the most that the image's superblock lets its tree take."""
    if image.kind == EXT3:  # <linux/ext3_fs.h>
        block = os.pread(image.fd, 1024, image.offset + 1024)
        inodes, size = int.from_bytes(block[:4], "little"), ext3_length(block, image.path)
        return Amount(size * _COPIES + _HOLES, inodes * _LINKS + _NAMES, inodes)
    inodes = int.from_bytes(os.pread(image.fd, 4, image.offset + 4), "little")  # squashfs_fs.h
    size = os.fstat(image.fd).st_size
    return Amount(max(most, size * _COPIES), inodes * _LINKS + _NAMES, inodes)


def _longest(image: Image) -> float:
    return _TIME + os.fstat(image.fd).st_size / _SPEED


def _read_output(output: int, tree: str, bounds: Amount, deadline: float) -> list[bytes]:
    """Return the first lines that are no harmless ones; RunError when a bound is passed."""
    poller = select.poll()
    poller.register(output, select.POLLIN)
    chunks: list[bytes] = []
    begun = b""
    look = _next_look(time.monotonic(), 0, deadline)
    while True:
        if poller.poll(max(0, look - time.monotonic()) * 1000):
            piece = os.read(output, 1 << 16)
            *lines, begun = (begun + piece).split(b"\n")
            begun = begun[:_LONGEST_LINE]
            chunks += [line[:_LONGEST_LINE] for line in lines if not _is_harmless(line)]
            chunks = chunks[:_LINES_SHOWN]
            if not piece:
                return chunks if _is_harmless(begun) else [*chunks, begun]
        if (began := time.monotonic()) >= look:
            _check_bounds(measured(tree), bounds, deadline)
            now = time.monotonic()
            look = _next_look(now, now - began, deadline)


def _next_look(now: float, took: float, deadline: float) -> float:
    """Return when the tree is measured next; took: seconds that it took last."""
    return min(now + max(_LEAST_PAUSE, took * _PAUSES), deadline)


def _check_bounds(amount: Amount, bounds: Amount, deadline: float) -> None:
    why = ""
    if amount.size > bounds.size:
        why = f"It takes over {bounds.size >> 20} MiB."
    elif amount.entries > bounds.entries or amount.directories > bounds.directories:
        why = f"It holds over {bounds.entries} files."
    elif time.monotonic() > deadline:
        why = "It takes too long."
    if why:
        why += " That is more than an image of its size should."
        raise RunError("", why=why, remedy="Ask who made the image, or use --mount-with fuse2fs.")


def _is_harmless(line: bytes) -> bool:
    return not line.strip() or any(words in line for words in _HARMLESS)


def _become_unpacker(
    parent: int,
    image: Image,
    directory: tuple[str, str],
    output: int,
    words: list[str],
    bounds: Amount,
) -> NoReturn:
    """Execute ``words`` where only ``directory`` can be written, if it still has its name.

    parent: the PID with which this process ends. directory: see unpack().
    """
    place, tree = directory
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        if os.getppid() != parent:  # it ended before prctl(2)
            os._exit(1)
        expected = os.stat(place)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        # One file of zeros could fill the disk between two looks at the tree.
        resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.size, bounds.size))
        syscalls.unshare(syscalls.CLONE_NEWNS)
        # Cloned before all is made read-only: this mount stays as it is.
        own = clone(tree)
        if not os.path.samestat(os.fstat(own), expected):
            raise FileNotFoundError(errno.ENOENT, "It was replaced", tree)
        flags = syscalls.AT_RECURSIVE
        # A read-only mount keeps nobody from writing to a device in it: there are none.
        syscalls.mount("tmpfs", "/dev", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV)
        only_read = syscalls.MOUNT_ATTR_RDONLY
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", flags, attr_set=only_read)
        attach(own, tree)
        os.chdir(tree)
        for number, fd in enumerate((image.fd, output, output)):
            os.dup2(fd, number)
        # What led to a directory would lead out of it, to what can be written.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.execve(words[0], words, {"LC_ALL": "C", "PATH": os.path.dirname(words[0])})
    except OSError as error:
        say(f"Cannot start {words[0]}: {error}")
    finally:
        os._exit(1)


def _drop_set_ids(tree: str) -> None:
    """Take set-id bits off: what is unpacked is all the user's own."""
    for directory, name, status in _entries(tree):
        mode = status.st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode) & 0o1777, dir_fd=directory)
