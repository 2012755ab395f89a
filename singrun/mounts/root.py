"""The root that mounts go into, and mount points that it lacks.

An image is read-only, so a missing mount point is made in an underlay: on the
deepest directory that exists a tmpfs is mounted, every entry of the directory
is bound into it (links are made again as links), and beside them the missing
entry. Nothing is ever written to the image, nor to a directory of the host
but for those that are the caller's own (adopt()).
"""

import errno
import os
import stat

from singrun import syscalls
from singrun.errors import RunError

# Errors of openat2(2) for what no process inside can reach either: nothing, links in a circle, what
# is in a closed directory.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


# What was read, by path and limit: through FUSE, to read a file again costs three requests.
_texts: "dict[tuple[str, int], tuple[os.stat_result, bytes]]" = {}
_MOST = 1 << 26  # bytes that are read of one root: scripts may be many, and holes


class NoPlaceError(RunError):
    """A mount point is missing in an image that is being written, where none is made."""


class Root:
    """The directory tree at ``path`` of this mount namespace; ``/`` of every target.

    image_is_written: it is an image that the program writes, in which nothing of ours shall stay.
    """

    def __init__(self, path: str, *, image_is_written: bool = False) -> None:
        self.path, self._image_is_written = path, image_is_written
        # Our writable mounts, by mount id; whether they outlast the launch.
        self._own: dict[int, bool] = {}
        self._below: dict[str, bool] = {}  # their places below the root; whether an underlay
        self._underlays: list[int] = []
        self._rows: set[int] = set()  # mounts of the table
        self._room = _MOST
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def open(self, target: str, flags: int) -> int:
        """Open ``target`` as this root's own processes would see it. OSError as openat2(2)."""
        # RESOLVE_IN_ROOT: links and ".." of a hostile image end at its root: openat2(2).
        return syscalls.openat2(self.fd, target.lstrip("/") or ".", flags, syscalls.RESOLVE_IN_ROOT)

    def _opened(self, target: str, flags: int) -> int:
        """Open ``target``, -1 if there is none; RunError where the kernel cannot tell."""
        try:
            return self.open(target, flags)
        except OSError as error:
            if error.errno in _ABSENT:
                return -1
            what, why = f"Cannot look at {target} in the image", f"{error.strerror}."
            raise RunError(what, why=why) from None

    def read(self, target: str, limit: int = 1 << 20) -> bytes:
        """Read the regular file ``target``, at most ``limit`` bytes; b"" if there is none.

        RunError: the files that were read are too large together.
        """
        if (target, limit) in _texts:  # scripts are read before the mounts and after them
            fd = self._opened(target, os.O_PATH)
            if fd >= 0:
                earlier, text = _texts[target, limit]
                is_same = os.path.samestat(os.fstat(fd), earlier)
                os.close(fd)
                if is_same:
                    return text
        # An image may have a FIFO there, or a terminal: neither is waited for, nor taken over.
        fd = self._opened(target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if fd < 0:
            return b""
        with open(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            # Room for a mebibyte, where ten bytes are read, would cost 20 µs.
            size = min(limit, status.st_size)
            data = (file.read(size) or b"") if stat.S_ISREG(status.st_mode) else b""
        self._room -= len(data)
        if self._room < 0:
            what, why = f"Cannot read {target} of the image", "Its scripts are too large together."
            raise RunError(what, why=why, remedy="Ask who made the image.")
        _texts[target, limit] = status, data
        return data

    def has(self, target: str) -> bool:
        """Whether there is anything at ``target``."""
        fd = self._opened(target, os.O_PATH)
        if fd >= 0:
            os.close(fd)
        return fd >= 0

    def names(self, target: str) -> list[str]:
        """Return the names in the directory ``target``; none if there is no such directory."""
        return self._listed(target) or []

    def holds(self, target: str) -> bool:
        """Whether there is a file at ``target``, or a directory with anything in it."""
        names = self._listed(target)
        return self.has(target) if names is None else bool(names)

    def _listed(self, target: str) -> "list[str] | None":
        fd = self._opened(target, os.O_RDONLY | os.O_DIRECTORY)
        if fd < 0:
            return None
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def occupy(self, tree: int) -> None:
        """Remember the mount ``tree`` as one of the table's."""
        self._rows.add(syscalls.mount_id(tree))

    def is_occupied(self, target: str) -> bool:
        """Whether a row of the table is mounted where ``target`` leads to, or above that."""
        # A missing target is in the mount of the deepest directory above it that exists.
        for _ in range(syscalls.MAXSYMLINKS):
            if (mount := self._mount_of(target)) >= 0:
                return mount in self._rows
            above, _, name = target.rstrip("/").rpartition("/")
            parent = self._opened(above, os.O_PATH | os.O_DIRECTORY)
            text = _link_text(name, parent) if parent >= 0 else ""
            target = os.path.join(above, text) if text else above
        return False

    def is_written(self, target: str) -> bool:
        """Whether there is a ``target``, in a mount where what is written stays."""
        return self._own.get(self._mount_of(target), False)

    def _mount_of(self, target: str) -> int:
        """Which mount ``target`` is in, -1 if there is no such file."""
        fd = self._opened(target, os.O_PATH)
        if fd < 0:
            return -1
        try:
            return syscalls.mount_id(fd)
        finally:
            os.close(fd)

    def shows(self, target: str, tree: int) -> bool:
        """Whether ``target`` is the very directory or file that ``tree`` is."""
        fd = self._opened(target, os.O_PATH)
        if fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(fd), os.fstat(tree))
        finally:
            os.close(fd)

    def place(
        self, target: str, *, directory: bool, trace: bool = True, vacant: bool = False
    ) -> int:
        """Open (O_PATH) the mount point ``target``, which is made if it is missing.

        A link at the end is followed to a directory; a file is mounted on the
        link itself, so that its goal stays as the image has it. trace: whether
        it may stay behind where that is being written. vacant: return -1
        where a row of the table is mounted.
        """
        flags = os.O_PATH | (os.O_DIRECTORY if directory else os.O_NOFOLLOW)
        try:
            fd = self.open(target, flags)
            if vacant and syscalls.mount_id(fd) in self._rows:
                os.close(fd)
                return -1
            return fd
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise _no_place(target, error) from None
        if vacant and self.is_occupied(target):
            return -1
        try:
            self._make(target, directory, trace)
            return self.open(target, flags)
        except OSError as error:
            raise _no_place(target, error) from None

    def adopt(self, tree: int, target: str, *, lasting: bool = False) -> None:
        """Let mount points be made in the mount ``tree`` on ``target``.

        lasting: they stay there, since it is an overlay, or a directory of the caller's.
        """
        self._own[syscalls.mount_id(tree)] = lasting
        if target != "/":
            self._below[target] = False

    def link(self, target: str, text: str) -> None:
        """Make a symbolic link in an adopted file system that ends with the launch."""
        parent = self._opened(os.path.dirname(target), os.O_PATH | os.O_DIRECTORY)
        if parent >= 0:
            if self._own.get(syscalls.mount_id(parent)) is False:
                os.symlink(text, os.path.basename(target), dir_fd=parent)
            os.close(parent)

    def make_read_only(self) -> None:
        """Make the underlays as read-only as what they stand for."""
        # At the end: until then mount points are made in them.
        for top in self._underlays:
            attributes = syscalls.MOUNT_ATTR_RDONLY
            syscalls.mount_setattr(top, "", syscalls.AT_EMPTY_PATH, attr_set=attributes)

    def _make(self, target: str, directory: bool, trace: bool, hops: int = 0) -> None:
        """Make ``target`` and the directories that lead to it; for a link its goal, in the root."""
        parts = [part for part in target.split("/") if part]
        depth, where = self._deepest(parts)
        if goal := _link_text(parts[depth], where):
            if hops == syscalls.MAXSYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
            way = [] if goal.startswith("/") else parts[:depth]
            way += [goal, *parts[depth + 1 :]]
            return self._make("/".join(way), directory, trace, hops + 1)
        mount = syscalls.mount_id(where)
        if trace and self._image_is_written and mount == syscalls.mount_id(self.fd):
            what = f"There is no {target} in the image"
            why = "It is being written, and a place for a mount would stay in it."
            raise NoPlaceError(what, why=why)
        lasting = self._own.get(mount)
        if lasting is None or (lasting and not trace):
            where = self._underlay(where, parts[:depth], parts[depth], lasting=bool(lasting))
        try:
            _make_entry(where, parts[depth:], directory=directory)
        except OSError as error:
            # A directory in an overlay that is another's, or the caller's on a read-only disk.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            where = self._underlay(where, parts[:depth], parts[depth], lasting=True)
            _make_entry(where, parts[depth:], directory=directory)
        return None

    def _deepest(self, parts: list[str]) -> tuple[int, int]:
        """How many of ``parts`` lead to an existing directory, and that directory."""
        for depth in range(len(parts) - 1, 0, -1):
            try:
                return depth, self.open("/".join(parts[:depth]), os.O_PATH | os.O_DIRECTORY)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
        return 0, self.open("/", os.O_PATH | os.O_DIRECTORY)

    def _underlay(self, below: int, parts: list[str], missing: str, *, lasting: bool) -> int:
        """Mount a tmpfs over the directory ``below``, showing all its entries."""
        # A writable directory that is not our own is the host's. Under a tmpfs, what the program
        # writes to it would be lost.
        if not lasting and not os.fstatvfs(below).f_flag & os.ST_RDONLY:
            why = f"/{'/'.join(parts)} is the host's, and singrun creates nothing there."
            raise RunError(
                f"There is no {missing} in /{'/'.join(parts)}", why=why, remedy="Create it first."
            )
        place = "/" + "/".join(parts)
        shown_again = {name: self._own[self._mount_of(name)] for name in self._own_below(place)}
        mode = stat.S_IMODE(os.fstat(below).st_mode)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        # ``below`` was opened before, so it still names the directory that is covered now.
        syscalls.mount("tmpfs", f"/proc/self/fd/{below}", "tmpfs", flags, f"mode={mode:o}")
        if not parts:  # the root itself was covered
            self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        top = self.open("/".join(parts), os.O_PATH | os.O_DIRECTORY)
        self.adopt(top, place)
        self._underlays.append(top)
        listing = os.open(f"/proc/self/fd/{below}", os.O_RDONLY | os.O_DIRECTORY)
        for name in os.listdir(listing):
            _show(name, listing, top)
        os.close(listing)
        for target, stays in shown_again.items():
            self._adopt_again(target, lasting=stays)
        self._below[place] = True
        return top

    def _own_below(self, place: str) -> list[str]:
        """Where mounts of our own are seen below ``place``: nothing lies over them."""
        names = [t for t in self._below if t.startswith(place.rstrip("/") + "/") and t != place]
        return [name for name in names if self._mount_of(name) in self._own]

    def _adopt_again(self, target: str, *, lasting: bool) -> None:
        """Adopt the copy of an adopted mount on ``target`` that a new underlay shows."""
        copy = self.open(target, os.O_PATH | os.O_DIRECTORY)
        self._own[syscalls.mount_id(copy)] = lasting
        self._underlays += [copy] if self._below[target] else []


def _show(name: str, below: int, top: int) -> None:
    """Let ``top`` show an entry of the directory ``below``, or what is mounted on it."""
    mode = os.stat(name, dir_fd=below, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=below), name, dir_fd=top)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(name, dir_fd=top)
    else:
        _fresh_file(name, top)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    flags |= syscalls.AT_RECURSIVE | syscalls.AT_SYMLINK_NOFOLLOW
    tree = syscalls.open_tree(below, name, flags)
    syscalls.move_mount(tree, "", top, name, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)


def _make_entry(where: int, parts: list[str], *, directory: bool) -> None:
    """Make the directories ``parts`` below ``where``; the last of them is perhaps a file."""
    for name in parts[:-1]:
        os.mkdir(name, dir_fd=where)
        # In a directory that others may write, a link could have come into its place.
        where = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=where)
    if directory:
        os.mkdir(parts[-1], dir_fd=where)
    else:
        _fresh_file(parts[-1], where)


def _fresh_file(name: str, where: int) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=where))


def _link_text(name: str, where: int) -> str:
    """Read the symbolic link ``name``; "" if there is none."""
    try:
        return os.readlink(name, dir_fd=where)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # EINVAL: it is no link
            raise
        return ""


def _no_place(target: str, error: OSError) -> RunError:
    why = (
        "Something on the way is a file." if error.errno == errno.ENOTDIR else f"{error.strerror}."
    )
    return RunError(f"Cannot mount anything on {target} in the image", why=why)
