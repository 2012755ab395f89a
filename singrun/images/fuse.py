"""fuse2fs, squashfuse, fuse-overlayfs: mounts by ordinary processes, for users without privilege.

The daemon must outlive no container and must never hold its own mount: a
daemon in the namespace that holds its mount never ends. With libfuse 3 the
mount is made here, attached nowhere, and the daemon gets the open /dev/fuse
alone. With libfuse 2 it mounts by itself: so it is started in one mount
namespace, the mount is taken out of that namespace as a detached copy, and
this process moves on to a namespace of its own.
"""

import errno
import os
import stat

from singrun import syscalls
from singrun.errors import UnavailableError
from singrun.images.image import SQUASHFS, Image
from singrun.mounts.rows import clone, image_attributes, restrict
from singrun.request import FUSE2FS, SQUASHFUSE

FUSE_OVERLAYFS = "fuse-overlayfs"
# The kernel checks permissions; fuse2fs itself must not check against its own user once more.
_EXT3 = "no_default_opts,fakeroot,kernel_cache"
# An image that cannot change: the kernel may keep what it has learned of it, for a day.
_LASTING = "attr_timeout=86400,entry_timeout=86400,negative_timeout=86400"
_OVERLAY = "noacl"  # fuse2fs, which may lie below, knows no ACLs
# Of the mount itself. libfuse 3's programs do not see them, libfuse 2's pass them to mount(2).
_MOUNT = "default_permissions,allow_other"
_USE_INO = ",use_ino"  # libfuse 3 does not know it, and its fuse2fs asks for it in another way
# Of libfuse itself: every file is shown as owned by 0, which is the caller. His own number, which
# his mke2fs has written, is mapped to no user in a namespace that has one id.
_ONE_OWNER = ",uid=0,gid=0"
_LIBFUSE3_NAME = b"libfuse3.so"
_LARGEST = 1 << 22  # bytes of a program or library; the largest seen have 101,024 and 2,003,408
_READAHEAD = 1 << 17  # bytes, as much as the kernel takes at once: VM_READAHEAD_PAGES
# The loader's path, which programs name: System V ABI, processor supplements.
_LOADERS = {
    "x86_64": "/lib64/ld-linux-x86-64.so.2",
    "aarch64": "/lib/ld-linux-aarch64.so.1",
    "ppc64le": "/lib64/ld64.so.2",
}
_ROOT_MODE = "40000"  # <linux/stat.h>, S_IFDIR, octal
DIRECTORIES = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
_ENVIRONMENT = {"PATH": DIRECTORIES, "LC_ALL": "C"}
_PACKAGES = {
    FUSE2FS: "Install the package fuse2fs (Debian) or e2fsprogs-fuse (others).",
    SQUASHFUSE: "Install the package squashfuse.",
    FUSE_OVERLAYFS: "Install the package fuse-overlayfs.",
}


def start(name: str, image: Image, target: str) -> "Mounting":
    """Start the daemon ``name``, by way of the directory ``target``; it mounts while we go on."""
    mounting = Mounting(image.path, target, image.remedy, writable=image.writable)
    # The daemon keeps the image's lock; see locks.py.
    mounting.spawn(name, [image.path], _options(image), image.fd)
    return mounting


def start_overlay(lower: list[str], upper: list[str], target: str) -> "Mounting":
    """Start fuse-overlayfs on ``target``: ``lower``, topmost first; over them ``upper`` and work.

    It opens the layers' directories before it mounts, and needs their paths no longer then.
    """
    layers = f"lowerdir={':'.join(lower)},{_OVERLAY}"
    if upper:
        layers += f",upperdir={upper[0]},workdir={upper[1]}"
    mounting = Mounting("an overlay", target, "", writable=bool(upper))
    mounting.spawn(FUSE_OVERLAYFS, [], layers)
    return mounting


class Mounting:
    """A FUSE daemon that is being started: its first process ends when the mount is there.

    daemon_fd: reads end of file when the daemon has ended, and all is on disk.
    """

    def __init__(self, what: str, target: str, remedy: str, *, writable: bool) -> None:
        self._what, self._target, self._remedy, self._writable = what, target, remedy, writable
        self._tree = -1

    def spawn(self, name: str, source: list[str], options: str, *inherited: int) -> None:
        """Start the program; it inherits no descriptors but ``inherited``."""
        program = _program(name)
        device = _open_device()
        self._name, place, flags = name, self._target, list[str]()
        if is_of_libfuse3(program):
            self._tree = _new_mount(device, self._what, writable=self._writable)
            place, inherited = f"/dev/fd/{device}", (*inherited, device)
        else:
            options += f",{_MOUNT}" + _USE_INO * (name == FUSE2FS)
            # fuse2fs keeps the option "ro" to itself; this one is libfuse 2's own.
            flags = ["-r"] * (name == FUSE2FS and not self._writable)
        # A daemon that an image has got hold of shall gain nothing by a set-id program.
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        self._output, writing = os.pipe()
        self.daemon_fd, living = os.pipe()
        withheld = _withhold_descriptors()
        for fd in (living, *inherited):
            os.set_inheritable(fd, True)
        null = os.open(os.devnull, os.O_RDWR)
        dup2 = os.POSIX_SPAWN_DUP2
        actions = [(dup2, null, 0), *((dup2, writing, n) for n in (1, 2))]
        # Its own session: Ctrl-C at the terminal is for the program, which needs its files
        # to the end.
        words, environment = [program, *flags, *source, place, "-o", options], _ENVIRONMENT
        self._child = os.posix_spawn(program, words, environment, file_actions=actions, setsid=True)
        for fd in inherited:
            os.set_inheritable(fd, False)
        for fd in withheld:
            os.set_inheritable(fd, True)
        for fd in (null, writing, living, device):
            os.close(fd)

    def finish(self) -> int:
        """Wait for the daemon, and return the mount as a detached tree.

        The caller has to leave this mount namespace, which is the daemon's.
        UnavailableError: the program refused.
        """
        with open(self._output, "rb") as output:
            message = output.read().decode(errors="replace").strip()
        refused = os.waitpid(self._child, 0)[1] != 0
        try:
            if not refused:
                tree = self._served() if self._tree >= 0 else self._taken_out()
                if self._name == SQUASHFUSE:
                    _read_ahead(tree)
                return tree
        except OSError:  # EINVAL: nothing is mounted there; ENOTCONN: it died at once
            message = message or "It ended at once."
        if self._tree >= 0:
            os.close(self._tree)
        os.close(self.daemon_fd)
        what = f"{self._name} cannot mount {self._what}"
        raise UnavailableError(what, why=message.replace("\n", " "), remedy=self._remedy)

    def _served(self) -> int:
        """Return our own mount, once the daemon has answered for its root."""
        os.fstat(self._tree)
        return self._tree

    def _taken_out(self) -> int:
        """Take what libfuse 2 has mounted out of this mount namespace."""
        tree = clone(self._target)
        syscalls.umount2(self._target, syscalls.MNT_DETACH)
        # fuse2fs keeps "ro" to itself, so the kernel is told as well.
        restrict(tree, image_attributes(writable=self._writable))
        return tree


def _read_ahead(tree: int) -> None:
    """Have the C library, which a program starts with, read in order.

    squashfuse keeps one block decompressed, and page faults go from block to block: for them
    `true` waited 7 ms, and 3 ms for all of the library. Of fuse2fs it would wait no less.
    """
    where, flags = syscalls.RESOLVE_IN_ROOT, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        loader = syscalls.openat2(tree, _LOADERS[os.uname().machine], os.O_PATH, where)
        directory = os.path.dirname(os.readlink(f"/proc/self/fd/{loader}"))
        os.close(loader)
        library = syscalls.openat2(tree, f"{directory}/libc.so.6", flags, where)
    except (KeyError, OSError):
        return  # of another kind, or for another machine
    if stat.S_ISREG((status := os.fstat(library)).st_mode):
        for at in range(0, min(status.st_size, _LARGEST), _READAHEAD):
            os.posix_fadvise(library, at, _READAHEAD, os.POSIX_FADV_WILLNEED)
    os.close(library)


def is_of_libfuse3(program: str) -> bool:
    """Whether a program is linked with libfuse 3, told by the library's name in the file.

    Reading 100 kB costs 0.1 ms; to run it with --version would cost a start.
    """
    with open(program, "rb", buffering=0) as file:
        return _LIBFUSE3_NAME in (file.read(_LARGEST) or b"")


def _new_mount(device: int, source: str, *, writable: bool) -> int:
    """Return a FUSE mount, attached nowhere, that the reader of ``device`` will serve.

    Linux, Documentation/filesystems/fuse.rst, "Mount options".
    """
    context = syscalls.fsopen("fuse")
    try:
        numbers = {"fd": str(device), "rootmode": _ROOT_MODE, "user_id": "0", "group_id": "0"}
        for key, value in {"source": source, **numbers}.items():
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)
        # ro: of the file system too, else each read makes the kernel forget a file's attributes,
        # for it might have changed the time of access. Linux, fs/fuse/dir.c, fuse_invalidate_atime.
        for key in [*_MOUNT.split(","), *([] if writable else ["ro"])]:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, key, None)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None)
        return syscalls.fsmount(context, image_attributes(writable=writable))
    finally:
        os.close(context)


def _options(image: Image) -> str:
    """Return the mount options.

    A dirty image is read without its journal, which a read-only mount must not replay.
    """
    more = f",offset={image.offset}" if image.offset else ""
    if image.kind == SQUASHFS:
        return f"ro{more}"
    more += _ONE_OWNER if image.is_data and _have_one_id() else ""
    if image.writable:
        return f"rw,{_EXT3}{more}"
    return f"ro,{_EXT3},{_LASTING}{more}" + (",norecovery" if image.dirty else "")


def _have_one_id() -> bool:
    """Whether this user namespace maps no more than one user. user_namespaces(7)."""
    with open("/proc/self/uid_map") as file:
        return [line.split()[2] for line in file] == ["1"]


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


def _paths(name: str) -> list[str]:
    """Return where a host program is looked for, in this order."""
    directories = f"{os.environ.get('PATH', '')}:{DIRECTORIES}".split(":")
    return [f"{directory}/{name}" for directory in directories if directory[:1] == "/"]


def host_program(name: str) -> str:
    """Return the path of a host program, "" if there is none."""
    return next((path for path in _paths(name) if os.access(path, os.X_OK)), "")


def program_paths(name: str) -> list[str]:
    """Return where a strategy's program is looked for, in this order."""
    # squashfuse_ll has libfuse's low-level interface, and is quicker.
    names = ("squashfuse_ll", name) if name == SQUASHFUSE else (name,)
    return [path for each in names for path in _paths(each)]


def _program(name: str) -> str:
    for path in program_paths(name):
        if os.access(path, os.X_OK):
            return path
    why = "It mounts for ordinary users, and is not on this host."
    raise UnavailableError(f"{name} is not installed", why=why, remedy=_PACKAGES[name])


def has_device() -> bool:
    """Whether /dev/fuse can be opened."""
    try:
        check_device()
    except UnavailableError:
        return False
    return True


def check_device() -> None:
    """Refuse when /dev/fuse cannot be opened."""
    os.close(_open_device())


def _open_device() -> int:
    """Open /dev/fuse; refuse in words better than fuse2fs has."""
    try:
        return os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        remedy = "Ask the administrator to let all read and write /dev/fuse (mode 0666)."
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            remedy = "Ask the administrator to load the kernel module fuse (modprobe fuse)."
        raise UnavailableError(
            "Cannot open /dev/fuse", why=f"{error.strerror}.", remedy=remedy
        ) from None
