"""A root directory and what is done in it by path: every path is one *inside* it.

Links are resolved inside too, and the kernel then opens the result by descriptor without
following any (openat2(2)): a tree whose ``/etc`` is a link to ``/`` never makes us touch the
host, and no program of it wins a race.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from singbuild.errors import ImageError
from singbuild.ext3.node import Owner
from singbuild.tar import beneath
from singrun import syscalls

Inside = str | os.PathLike[str]
READ_LIMIT = 64 << 20  # bytes; what the engine reads are texts
_FLAGS = {"rb": os.O_RDONLY, "r+b": os.O_RDWR}
# O_NONBLOCK: without it the open(2) of a FIFO in a file's place waits for its other end.
_OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_EXACTLY = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_PATTERN = re.compile(r"[*?[]")


class RootDirectory:
    """A tree below a directory of the host.

    root: that directory; owners: of entries to which the host could not give them, by path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owners: dict[bytes, Owner] = {}

    def path(self, inside: Inside, *, follow: bool = True) -> Path:
        """Return the host path of ``inside``, every link on the way resolved inside the image.

        It is for messages and arguments, not to be opened: the image's programs may have put links
        there meanwhile. follow: also resolve the last component. What does not exist is taken
        as it is written. Raises ImageError for a circle of links.
        """
        resolved: list[str] = []
        waiting = [part for part in reversed(PurePosixPath(inside).parts) if part != "/"]
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                resolved = resolved[:-1]
                continue
            here = self.root.joinpath(*resolved, part)
            if here.is_symlink() and (waiting or follow):
                links += 1
                if links > syscalls.MAXSYMLINKS:
                    raise ImageError(f"{inside}: too many levels of symbolic links in the image")
                target = PurePosixPath(here.readlink())
                if target.is_absolute():
                    resolved = []
                waiting += [step for step in reversed(target.parts) if step != "/"]
            else:
                resolved.append(part)
        return self.root.joinpath(*resolved)

    def status(self, inside: Inside, *, follow: bool = True) -> os.stat_result | None:
        """Return what stat(2), or lstat(2), says; None when nothing is there."""
        try:
            with self._place(inside, follow=follow) as (directory, name):
                return os.lstat(name, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, inside: Inside) -> bool:
        """Whether something is there (a link that leads nowhere is not)."""
        return self.status(inside) is not None

    def read(self, inside: Inside, limit: int = READ_LIMIT) -> bytes:
        """Return a file's content. Raises OSError, ImageError: it is no file, or a longer one."""
        with self.open(inside) as file:
            data: bytes = file.read(limit + 1)
        if len(data) > limit:
            raise ImageError(f"{inside}: has more than {limit:,} bytes")
        return data

    def open(self, inside: Inside, mode: str = "rb") -> BinaryIO:
        """Open a file that is there, as Python does with "rb" or "r+b".

        Raises OSError; ImageError for what is no regular file.
        """
        with self._place(inside) as (directory, name):
            return _regular(
                os.open(name, _FLAGS[mode] | _OPEN_FLAGS, dir_fd=directory), inside, mode
            )

    @contextlib.contextmanager
    def directory(self, inside: Inside) -> Iterator[int]:
        """Yield the descriptor of a directory, for the time of a with-block."""
        with self._place(inside) as (above, name):
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            yield fd
        finally:
            os.close(fd)

    def names(self, inside: Inside) -> list[str]:
        """Return what a directory holds, sorted; nothing when there is no such directory."""
        try:
            with self.directory(inside) as directory:
                return sorted(os.listdir(directory))  # noqa: PTH208 - by descriptor
        except (FileNotFoundError, NotADirectoryError):
            return []

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted; ``*`` and ``?`` match no ``/``."""
        reached = ["/"]
        for part in PurePosixPath("/", pattern).parts[1:]:
            reached = [
                posixpath.join(above, name)
                for above in reached
                for name in (self.names(above) if _PATTERN.search(part) else [part])
                if fnmatch.fnmatchcase(name, part)
            ]
        return [path for path in reached if self.status(path, follow=False)]

    def files(self, inside: Inside = "/", suffix: str = "") -> Iterator[str]:
        """Yield every regular file below a directory, as ``walk`` finds it.

        suffix: what its name ends in.
        """
        for below, entries in self.walk(inside):
            for entry in entries:
                if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                    yield posixpath.join(inside, below, entry.name)

    def walk(self, inside: Inside = "/") -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Yield every directory below one, by its path from there, with its entries.

        No link is followed, however deep it goes. One that goes away meanwhile is passed over.
        """
        with contextlib.ExitStack() as stack:
            try:
                top = stack.enter_context(self.directory(inside))
            except (FileNotFoundError, NotADirectoryError):
                return
            waiting = [""]
            while waiting:
                below = waiting.pop()
                with contextlib.suppress(OSError), _scanned(top, below) as scanned:
                    entries = list(scanned)
                    inner = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
                    waiting += [posixpath.join(below, name) for name in inner]
                    yield below, entries

    def mkdir(self, inside: Inside, mode: int = 0o755) -> None:
        """Make a directory of exactly this mode, and its parents with 0755; it may exist."""
        with self._place(inside, make=True) as (directory, name):
            _make_directory(directory, name, mode)

    def write(self, inside: Inside, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file of exactly this mode, replacing whatever file or link is there."""
        with self._place(inside, follow=False, make=True) as (directory, name):
            self._remove_file(directory, name)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, dir_fd=directory)
            with os.fdopen(fd, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()  # a write after chmod would take set-user-ID off again: chmod(2)
                os.fchmod(fd, mode)

    def symlink(self, inside: Inside, target: str) -> None:
        """Make a symbolic link, replacing whatever file or link is there."""
        with self._place(inside, follow=False, make=True) as (directory, name):
            self._remove_file(directory, name)
            os.symlink(target, name, dir_fd=directory)

    def device(self, inside: Inside, mode: int, device: int) -> None:
        """Make a device, replacing whatever file or link is there.

        Where the host gives none, it is recorded for the image. mode: with its type, stat.S_IFCHR
        or stat.S_IFBLK; device: as os.makedev() returns it.
        """
        with self._place(inside, follow=False, make=True) as (directory, name):
            self._remove_file(directory, name)
            try:
                os.mknod(name, mode, device, dir_fd=directory)
            except PermissionError:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS
                os.close(os.open(name, flags, dir_fd=directory))
                self.owners[self._inside(directory, name)] = Owner(0, 0, mode, device)
            _chmod(directory, name, stat.S_IMODE(mode))

    def chmod(self, inside: Inside, mode: int) -> None:
        """Change the mode of what is there. Raises OSError."""
        with self._place(inside) as (directory, name):
            _chmod(directory, name, mode)

    def chown(self, inside: Inside, uid: int, gid: int, *, follow: bool = True) -> None:
        """Change owner and group; where the host refuses, record them for the image.

        Raises FileNotFoundError.
        """
        with self._place(inside, follow=follow) as (directory, name):
            path = self._inside(directory, name)
            owner = self.owners.pop(path, Owner(uid, gid))
            is_recorded = bool(owner.mode)  # as a device is, whoever owns it
            try:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                # EINVAL: of an id that is not mapped into this user namespace.
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
                is_recorded = True
            if is_recorded:
                self.owners[path] = dataclasses.replace(owner, uid=uid, gid=gid)

    def rename(self, inside: Inside, to: Inside) -> None:
        """Give a file, link or directory another name; what has that is replaced."""
        with (
            self._place(inside, follow=False) as (old, name),
            self._place(to, follow=False, make=True) as (new, other),
        ):
            was, now = self._inside(old, name), self._inside(new, other)
            os.rename(name, other, src_dir_fd=old, dst_dir_fd=new)
            if was != now:
                self._move_owners(was, now)

    def remove(self, inside: Inside) -> None:
        """Remove a file or a link, if there is one. A directory stays and is an error."""
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._place(inside, follow=False) as (directory, name),
        ):
            self._remove_file(directory, name)

    def rmdir(self, inside: Inside) -> None:
        """Remove an empty directory. Raises OSError."""
        with self._place(inside, follow=False) as (directory, name):
            os.rmdir(name, dir_fd=directory)
            self.owners.pop(self._inside(directory, name), None)

    def remove_tree(self, inside: Inside) -> None:
        """Remove whatever is there, with all below it; no link is followed."""
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._place(inside, follow=False) as (directory, name),
        ):
            top, last = self._inside(directory, name), os.fsencode(name)
            beneath.remove(
                directory, last, lambda path: self.owners.pop(top + path[len(last) :], None)
            )

    @contextlib.contextmanager
    def new_directory(self, name: str) -> Iterator[Path]:
        """Make a directory in the image's root, for the time of a with-block, closed to others.

        For files that programs of the image shall read. Yields its path on the host. Raises
        ImageError when the image has the name already: it may be a link.
        """
        try:
            with self.directory("/") as root:
                os.mkdir(name, 0o700, dir_fd=root)
        except FileExistsError as error:
            raise ImageError(
                f"the image has a /{name}",
                why="A build makes a directory of this name, and removes it.",
                remedy=f"Remove /{name} from the image.",
            ) from error
        try:
            yield self.root / name
        finally:
            self.remove_tree(f"/{name}")

    @contextlib.contextmanager
    def _place(
        self, inside: Inside, *, follow: bool = True, make: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Open the directory that holds ``inside``, for a with-block, and say its name there.

        make: missing directories are made. The kernel follows no link on the way: ``path`` has
        resolved them, and should a program make one meanwhile, the error is ELOOP.
        """
        parts = self.path(inside, follow=follow).relative_to(self.root).parts
        *above, name = parts or (".",)
        root = os.open(self.root, _DIRECTORY)
        fd = -1
        try:
            if make:
                _make_directories(root, above)
            fd = syscalls.openat2(root, "/".join(above) or ".", _DIRECTORY, _EXACTLY)
            yield fd, name
        finally:
            os.close(root)
            if fd >= 0:
                os.close(fd)

    def _remove_file(self, directory: int, name: str) -> None:
        """Remove a file or a link, if it is there; a directory stays and is an error."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                raise ImageError(f"{name}: is a directory where a file was to be written")
            os.unlink(name, dir_fd=directory)
        self.owners.pop(self._inside(directory, name), None)  # what a program removed has one, too

    def _move_owners(self, old: bytes, new: bytes) -> None:
        """Move what is recorded at and below one path to another, whose own records go."""
        below = [path for path in self.owners if path == old or path.startswith(old + b"/")]
        rows = {new + path[len(old) :]: self.owners.pop(path) for path in below}
        for path in [*self.owners]:
            if path == new or path.startswith(new + b"/"):
                del self.owners[path]
        self.owners.update(rows)

    def _inside(self, directory: int, name: str) -> bytes:
        """Return the path, from the root, of an entry of an open directory; b"" for the root."""
        here = os.readlink(f"/proc/self/fd/{directory}")  # noqa: PTH115 - of the kernel's
        root = os.path.realpath(self.root)
        path = posixpath.normpath(os.path.relpath(f"{here}/{name}", root))
        return b"" if path == "." else os.fsencode(path)


@contextlib.contextmanager
def _scanned(top: int, below: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Yield the entries of a directory below an open one; no link on the way is followed."""
    fd = syscalls.openat2(top, below or ".", _DIRECTORY, _EXACTLY)
    try:
        with os.scandir(fd) as entries:
            yield entries
    finally:
        os.close(fd)


def _regular(fd: int, inside: Inside, mode: str) -> BinaryIO:
    """Return an open entry as a file. Raises ImageError for what is none."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{inside}: is no regular file")
    return cast("BinaryIO", os.fdopen(fd, mode))


def _make_directories(root: int, parts: Sequence[str]) -> None:
    """Make directories one below the other, where they are missing."""
    for count in range(1, len(parts) + 1):
        *above, name = parts[:count]
        fd = syscalls.openat2(root, "/".join(above) or ".", _DIRECTORY, _EXACTLY)
        try:
            _make_directory(fd, name, 0o755)
        finally:
            os.close(fd)


def _make_directory(above: int, name: str, mode: int) -> None:
    """Make one directory unless it is there; the umask has no say."""
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=above).st_mode):
            raise
    else:
        _chmod(above, name, mode)


def _chmod(directory: int, name: str, mode: int) -> None:
    """Change the mode of an entry that is no link; by O_PATH, since open(2) of a device acts."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)
