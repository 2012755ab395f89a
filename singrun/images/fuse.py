"""fuse2fs, squashfuse, fuse-overlayfs: mounts by ordinary processes, for users without privilege.

The daemon must outlive no container and must never hold its own mount: a
daemon in the namespace that holds its mount never ends. So it is started in
one mount namespace, the mount is taken out of that namespace as a detached
copy, and this process moves on to a namespace of its own.
"""

import errno
import os

from singrun import syscalls
from singrun.errors import RunError, UnavailableError
from singrun.images.image import SQUASHFS, Image
from singrun.mounts.table import clone, image_attributes, restrict

FUSE2FS, SQUASHFUSE, FUSE_OVERLAYFS = "fuse2fs", "squashfuse", "fuse-overlayfs"
# The kernel checks permissions; fuse2fs itself must not check against its own user once more.
_EXT3 = "no_default_opts,fakeroot,default_permissions,allow_other,use_ino,kernel_cache"
# An image that cannot change: the kernel may keep what it has learned of it, for a day.
_LASTING = "attr_timeout=86400,entry_timeout=86400,negative_timeout=86400"
_SQUASHFS = "ro,default_permissions,allow_other,timeout=86400"
_OVERLAY = "noacl,allow_other"  # fuse2fs, which may lie below, knows no ACLs
DIRECTORIES = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
_PACKAGES = {
    FUSE2FS: "Install the package fuse2fs (Debian) or e2fsprogs-fuse (others).",
    SQUASHFUSE: "Install the package squashfuse.",
    FUSE_OVERLAYFS: "Install the package fuse-overlayfs.",
}


def program_for(image: Image) -> str:
    """Return the name of the program that mounts this kind of image."""
    return SQUASHFUSE if image.kind == SQUASHFS else FUSE2FS


def start(image: Image, target: str) -> "Mounting":
    """Start the daemon on the directory ``target``; it mounts while we go on."""
    name = program_for(image)
    check = f"Check it with: e2fsck -fn {image.path}"
    remedy = check if name == FUSE2FS else "Copy or build it again."
    mounting = Mounting(image.path, target, remedy, writable=image.writable)
    # The daemon keeps the image's lock; see locks.py.
    mounting.spawn(name, [image.path, target, "-o", _options(image)], image.fd)
    return mounting


def start_overlay(lower: list[str], upper: str, target: str) -> "Mounting":
    """Start fuse-overlayfs on ``target``: ``lower``, topmost first; over them ``upper``, if not "".

    It opens the layers' directories before it mounts, and needs their paths no longer then.
    """
    layers = f"lowerdir={':'.join(lower)},{_OVERLAY}"
    if upper:
        layers += f",upperdir={upper}/upper,workdir={upper}/work"
    mounting = Mounting("an overlay", target, "", writable=bool(upper))
    mounting.spawn(FUSE_OVERLAYFS, ["-o", layers, target])
    return mounting


class Mounting:
    """A daemon on its way: its first process ends when the mount is there.

    life: reads end of file when the daemon has ended, and all is on disk.
    """

    def __init__(self, what: str, target: str, remedy: str, *, writable: bool) -> None:
        self._what, self._target, self._remedy, self._writable = what, target, remedy, writable

    def spawn(self, name: str, arguments: list[str], *kept: int) -> None:
        """Start the program; of the descriptors that it would inherit it gets ``kept`` only."""
        program = _program(name)
        check_device()
        self._name = name
        self._output, writing = os.pipe()
        self.life, living = os.pipe()
        withheld = _withhold_descriptors()
        for fd in (living, *kept):
            os.set_inheritable(fd, True)
        null = os.open(os.devnull, os.O_RDWR)
        dup2 = os.POSIX_SPAWN_DUP2
        actions = [(dup2, null, 0), *((dup2, writing, n) for n in (1, 2))]
        words, environment = [program, *arguments], {"PATH": DIRECTORIES, "LC_ALL": "C"}
        self._child = os.posix_spawn(program, words, environment, file_actions=actions, setsid=True)
        for fd in kept:
            os.set_inheritable(fd, False)
        for fd in withheld:
            os.set_inheritable(fd, True)
        for fd in (null, writing, living):
            os.close(fd)

    def finish(self) -> int:
        """Wait for the mount and take it out of this mount namespace, as a detached tree.

        The caller has to leave this namespace, which is the daemon's.
        """
        with os.fdopen(self._output, "rb") as output:
            said = output.read().decode(errors="replace").strip()
        if os.waitpid(self._child, 0)[1]:
            raise self._refused(said)
        try:
            tree = clone(self._target)
            syscalls.umount2(self._target, syscalls.MNT_DETACH)
        except OSError:  # EINVAL: nothing is mounted there; ENOTCONN: it died at once
            raise self._refused(said or "It ended at once.") from None
        # fuse2fs keeps "ro" to itself, so the kernel is told as well.
        restrict(tree, image_attributes(writable=self._writable))
        return tree

    def _refused(self, said: str) -> RunError:
        what = f"{self._name} cannot mount {self._what}"
        return RunError(what, why=said.replace("\n", " "), remedy=self._remedy)


def _options(image: Image) -> str:
    """dirty: read without the journal, which a read-only mount must not replay."""
    if image.kind == SQUASHFS:
        return _SQUASHFS
    offset = f",offset={image.offset}" if image.offset else ""
    if image.writable:
        return f"rw,{_EXT3}{offset}"
    return f"ro,{_EXT3},{_LASTING}{offset}" + (",norecovery" if image.dirty else "")


def _withhold_descriptors() -> list[int]:
    """Mark all descriptors from 3 on close-on-exec, and return those that were not.

    A daemon that held the caller's pipes would keep their readers waiting.
    """
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    inherited = [fd for fd in numbers if fd > 2 and _is_inheritable(fd)]
    for fd in inherited:
        os.set_inheritable(fd, False)
    return inherited


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the listing's own descriptor
        return False


def found(name: str) -> str:
    """Return the path of a host program, "" if there is none."""
    names = (
        f"{where}/{name}" for where in f"{os.environ.get('PATH', '')}:{DIRECTORIES}".split(":")
    )
    return next((path for path in names if path[0] == "/" and os.access(path, os.X_OK)), "")


def _program(name: str) -> str:
    if path := (name == SQUASHFUSE and found("squashfuse_ll")) or found(name):  # _ll is quicker
        return path
    why = "It mounts for ordinary users, and is not on this host."
    raise UnavailableError(f"{name} is not installed", why=why, remedy=_PACKAGES[name])


def check_device() -> None:
    """Refuse when /dev/fuse cannot be opened, in words better than fuse2fs has."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        remedy = "Ask the administrator to make it readable and writable for all (mode 0666)."
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            remedy = "Ask the administrator to load the kernel module fuse (modprobe fuse)."
        raise UnavailableError(
            "Cannot open /dev/fuse", why=f"{error.strerror}.", remedy=remedy
        ) from None
