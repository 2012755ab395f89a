"""fuse2fs: an ext3 image mounted by an ordinary process, for users without privilege.

The daemon must outlive no container and must never hold its own mount: a
daemon in the namespace that holds its mount never ends. So it is started in
one mount namespace, the mount is taken out of that namespace as a detached
copy, and this process moves on to a namespace of its own.
"""

import errno
import os

from singrun import syscalls
from singrun.errors import RunError
from singrun.mounts import IMAGE_ATTRIBUTES, attach, clone, restrict

# The image cannot change, so the kernel may keep what it has learned. The kernel
# checks permissions; fuse2fs itself must not check against its own user once more.
_OPTIONS = (
    "ro,no_default_opts,fakeroot,default_permissions,allow_other,use_ino,kernel_cache,"
    "attr_timeout=86400,entry_timeout=86400,negative_timeout=86400"
)
_DIRECTORIES = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
_PACKAGE = "Install the package fuse2fs (Debian) or e2fsprogs-fuse (others)."


def start(image: str, offset: int, *, dirty: bool, target: str) -> "Mounting":
    """Start fuse2fs on the directory ``target``; it mounts while we go on.

    dirty: read without the journal, which a read-only mount must not replay.
    """
    program = _program()
    _check_device()
    options = f"{_OPTIONS},offset={offset}" + (",norecovery" if dirty else "")
    reading, writing = os.pipe()
    inherited = _withhold_descriptors()
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), *((os.POSIX_SPAWN_DUP2, writing, n) for n in (1, 2))]
    arguments = [program, image, target, "-o", options]
    environment = {"PATH": _DIRECTORIES, "LC_ALL": "C"}
    child = os.posix_spawn(program, arguments, environment, file_actions=actions, setsid=True)
    for fd in inherited:
        os.set_inheritable(fd, True)
    os.close(null)
    os.close(writing)
    return Mounting(image, child, reading, target)


class Mounting:
    """A fuse2fs on its way: its first process ends when the mount is there."""

    def __init__(self, image: str, child: int, output: int, target: str) -> None:
        self._image, self._target = image, target
        self._child, self._output = child, output

    def finish(self) -> None:
        """Wait for the mount and take it along into a mount namespace of our own."""
        with os.fdopen(self._output, "rb") as output:
            said = output.read().decode(errors="replace").strip()
        if os.waitpid(self._child, 0)[1]:
            why, remedy = said.replace("\n", " "), f"Check it with: e2fsck -fn {self._image}"
            raise RunError(f"fuse2fs cannot mount {self._image}", why=why, remedy=remedy)
        tree = clone(self._target)
        syscalls.umount2(self._target, syscalls.MNT_DETACH)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        restrict(tree, IMAGE_ATTRIBUTES)  # fuse2fs keeps "ro" to itself
        attach(tree, self._target)
        os.close(tree)


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


def _program() -> str:
    """Return the path of fuse2fs."""
    for directory in f"{os.environ.get('PATH', '')}:{_DIRECTORIES}".split(":"):
        path = f"{directory}/fuse2fs"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    why = "An ordinary user's images are mounted by fuse2fs, which is not on this host."
    raise RunError("fuse2fs is not installed", why=why, remedy=_PACKAGE)


def _check_device() -> None:
    """Refuse when /dev/fuse cannot be opened, in words better than fuse2fs has."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        remedy = "Ask the administrator to make it readable and writable for all (mode 0666)."
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            remedy = "Ask the administrator to load the kernel module fuse (modprobe fuse)."
        raise RunError("Cannot open /dev/fuse", why=f"{error.strerror}.", remedy=remedy) from None
