"""Unpacks tar streams into a directory, and never anywhere else.

``beneath`` opens the directory of every entry, and of every link's target, below the root. A
link at the end of a path is never followed. An existing entry is removed, never written to: it
may be a hard link to a file with another name.
The archives may be the layers of a container image; ``whiteouts`` removes what they hide.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from singbuild import host
from singbuild.contract import Reporter
from singbuild.ext3.node import Owner
from singbuild.tar.beneath import Directory, Tree
from singbuild.tar.limits import Account, Limits
from singbuild.tar.member_path import refused, split, split_target
from singbuild.tar.owners import Ownership, shown
from singbuild.tar.read import Member, TarStream
from singbuild.tar.whiteouts import WHITEOUT, Whiteouts

LONGEST_PATH = 4095  # bytes: PATH_MAX without its zero
# What a member can cause: a zero byte in its name is a ValueError, a huge number an OverflowError.
FAULTS = (OSError, ValueError, OverflowError)
# What the host causes; the member is not to blame.
HOST_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


_Maker = Callable[["Unpacker", Member, TarStream, Directory, bytes, bytes], None]


class Unpacker:
    """Applies archives to one tree, one after the other; a context manager.

    root: an existing directory that nobody else changes meanwhile. whiteouts: the archives are
    layers of an image. wanted: says of an entry's path and time in nanoseconds whether
    ``baseline_paths`` gets it.

    owners: gets the owners and devices that this process has no right to set, by path, for the
    seal to set them; an empty file stands for a device. Without it they are left out, with one
    warning for each kind, and ``ownership.owners`` has them.
    """

    def __init__(
        self,
        root: Path,
        report: Reporter,
        *,
        limits: Limits | None = None,
        whiteouts: bool = False,
        owners: dict[bytes, Owner] | None = None,
        wanted: Callable[[bytes, int], bool] = lambda _path, _mtime: False,
    ) -> None:
        self.report, self._wanted = report, wanted
        self._whiteouts = Whiteouts(self._remove) if whiteouts else None
        self.baseline_paths: set[bytes] = set()
        self._account = Account(limits or Limits.from_environment())
        self.ownership = Ownership(report, owners)
        self._tree = Tree(root, self._note_open, self._account.implied)
        self._umask = host.umask()
        self._times: dict[bytes, Member] = {}  # of directories: set at the end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._set_directories()
                self.ownership.warn()
        finally:
            self._tree.close()

    def apply(self, chunks: Iterable[bytes]) -> None:
        """Unpack one archive over what is there.

        chunks: the archive, uncompressed, in pieces of any size; all are taken.
        Raises SourceError naming the entry, and OSError when the disk is full.
        """
        archive = TarStream(chunks)
        for member in archive:
            self._account.begin(member)
            self._tree.close_some()
            try:
                self._member(member, archive)
            except FAULTS as error:
                if _is_of_the_host(error):
                    raise
                raise refused(member, getattr(error, "strerror", "") or str(error)) from error
        self._tree.close_all()
        if self._whiteouts:
            self._whiteouts.end_layer(self._tree)

    def _note_open(self, directory: bytes) -> None:
        if self._whiteouts:
            self._whiteouts.add_directory(directory)

    def _member(self, member: Member, archive: TarStream) -> None:
        above, name = split(member)
        if self._whiteouts and name.startswith(WHITEOUT):
            self._whiteouts.apply(self._tree, member, above, name)
            return
        if not name:
            if member.kind != b"5":
                raise refused(member, "it has no name")
            self._note_directory(member, b"")
            self._note_for_baseline(b"", member.mtime)
            return
        make = self._MAKERS.get(member.kind)
        if make is None:
            raise refused(member, f"its type {member.kind!r} is unknown")
        into = self._tree.directory(above)
        if (later := self._times.get(into.path)) and later.mode & stat.S_ISGID:
            # As in a set-group-id directory, an entry's owner is set or recorded even if it is
            # ours: the directory's group is what it would have else.
            into = into._replace(is_setgid=True)
        path = into.inside(name)
        if len(path) > LONGEST_PATH:
            raise refused(member, f"its path is longer than {LONGEST_PATH} bytes")
        self._account.name(len(path))
        if self._whiteouts:
            self._whiteouts.add(path)
        self.ownership.owners.pop(path, None)
        make(self, member, archive, into, name, path)
        # The header of a hard link has no say about the file, which keeps its time.
        is_link = member.kind == b"1"
        mtime = os.lstat(name, dir_fd=into.fd).st_mtime_ns if is_link else member.mtime
        self._note_for_baseline(path, mtime)

    def _note_for_baseline(self, path: bytes, mtime: int) -> None:
        if self._wanted(path, mtime):
            self.baseline_paths.add(path)

    def _file(
        self, member: Member, archive: TarStream, into: Directory, name: bytes, path: bytes
    ) -> None:
        try:
            fd = os.open(name, _NEW, member.mode & 0o777, dir_fd=into.fd)
        except FileExistsError:
            self._remove(into, name)
            fd = os.open(name, _NEW, member.mode & 0o777, dir_fd=into.fd)
        try:
            if member.segments is None:
                for piece in archive.data():
                    _write(fd, piece)
            else:
                _write_sparse(fd, member, archive)
            if self.ownership.is_foreign(member, into):
                self.ownership.set_owner(fd, member, path)
            if member.mode & (0o7000 | self._umask):
                os.fchmod(fd, member.mode)
            if member.xattrs:
                self.ownership.set_attributes(fd, member)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _make_directory(
        self, member: Member, _archive: TarStream, into: Directory, name: bytes, path: bytes
    ) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=into.fd)
        except FileExistsError:
            if not stat.S_ISDIR(into.kind(name)):
                self._remove(into, name)
                os.mkdir(name, 0o755, dir_fd=into.fd)
        self._note_directory(member, path)

    def _note_directory(self, member: Member, path: bytes) -> None:
        """Note a directory's metadata for the end; set at once what entries inherit: inode(7)."""
        self._times[path] = member
        fd = self._tree.exactly(path)
        try:
            if (member.mode | os.fstat(fd).st_mode) & stat.S_ISGID:
                self.ownership.set_owner(fd, member, path)
                os.fchmod(fd, member.mode | stat.S_IRWXU)
        finally:
            os.close(fd)

    def _symlink(
        self, member: Member, _archive: TarStream, into: Directory, name: bytes, path: bytes
    ) -> None:
        self._replace(into, name, lambda: os.symlink(member.link, name, dir_fd=into.fd))
        self.ownership.set_by_name(member, into, name, path)

    def _hard_link(
        self, member: Member, _archive: TarStream, into: Directory, name: bytes, path: bytes
    ) -> None:
        above, last = split_target(member)
        try:
            origin = self._tree.directory(above, make=False)
            if _same(origin, last, into, name):
                return
            try:
                _link(origin, last, into, name)
            except FileExistsError:
                self._remove(into, name)
                origin = self._tree.directory(above, make=False)
                _link(origin, last, into, name)
        except FileNotFoundError:
            why = f"it is a link to {shown(member.link)}, which is not there"
            raise refused(member, why) from None
        if owner := self.ownership.owners.get(origin.inside(last)):
            self.ownership.owners[path] = replace(owner, uid=member.uid, gid=member.gid)

    def _node(
        self, member: Member, _archive: TarStream, into: Directory, name: bytes, path: bytes
    ) -> None:
        kind = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}[member.kind]
        device = os.makedev(*member.device)
        mode = kind | member.mode
        try:
            self._replace(into, name, lambda: os.mknod(name, mode, device, dir_fd=into.fd))
        except PermissionError:
            if self.ownership.for_seal:
                self._replace(into, name, lambda: _make_empty(into, name))
                self.ownership.owners[path] = Owner(member.uid, member.gid, mode, device)
                os.utime(name, ns=(member.mtime, member.mtime), dir_fd=into.fd)
            else:
                self.ownership.leave_out("device nodes are left out", path)
            return
        self.ownership.set_by_name(member, into, name, path)
        if member.mode & (0o7000 | self._umask):
            os.chmod(name, member.mode, dir_fd=into.fd)

    _MAKERS: ClassVar[dict[bytes, _Maker]] = {
        b"0": _file,
        b"1": _hard_link,
        b"2": _symlink,
        b"3": _node,
        b"4": _node,
        b"5": _make_directory,
        b"6": _node,
    }

    def _remove(self, where: Directory, name: bytes) -> None:
        if self._tree.remove(where, name):
            self._times.pop(where.inside(name), None)

    def _replace(self, into: Directory, name: bytes, make: Callable[[], None]) -> None:
        """Make an entry in the place of whatever is there."""
        try:
            make()
        except FileExistsError:
            self._remove(into, name)
            make()

    def _set_directories(self) -> None:
        """Give directories their modes and times; the deepest first.

        At the end, since each entry that is made changes its directory's time, and a mode may
        forbid to make one.
        """
        for path in sorted(self._times, reverse=True):
            member = self._times[path]
            try:
                fd = self._tree.exactly(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later member replaced or removed it
                raise
            try:
                self._set_directory(fd, member, path)
            except FAULTS as error:
                if _is_of_the_host(error):
                    raise
                raise refused(member, getattr(error, "strerror", "") or str(error)) from error
            finally:
                os.close(fd)

    def _set_directory(self, fd: int, member: Member, path: bytes) -> None:
        self.ownership.set_owner(fd, member, path)
        os.fchmod(fd, member.mode)
        for name in os.listxattr(fd):
            if name.startswith(("user.", "trusted.", "security.capability")):
                os.removexattr(fd, name)
        self.ownership.set_attributes(fd, member)
        os.utime(fd, ns=(member.mtime, member.mtime))


def _is_of_the_host(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in HOST_FAULTS


def _make_empty(into: Directory, name: bytes) -> None:
    os.close(os.open(name, _NEW, 0o600, dir_fd=into.fd))


def _link(origin: Directory, first: bytes, into: Directory, second: bytes) -> None:
    os.link(first, second, src_dir_fd=origin.fd, dst_dir_fd=into.fd, follow_symlinks=False)


def _same(one: Directory, first: bytes, other: Directory, second: bytes) -> bool:
    """Whether two names are one entry of one directory."""
    return first == second and os.path.samestat(os.fstat(one.fd), os.fstat(other.fd))


def _write(fd: int, data: memoryview) -> None:
    while (written := os.write(fd, data)) < len(data):
        data = data[written:]


def _write_sparse(fd: int, member: Member, archive: TarStream) -> None:
    """Write the data of each segment to its place; what is between stays a hole."""
    os.ftruncate(fd, member.real_size)
    segments = iter(member.segments or ())
    at, left = 0, 0
    for piece in archive.data():
        while piece:
            while not left:
                at, left = next(segments)
            part = piece[:left]
            os.lseek(fd, at, os.SEEK_SET)
            _write(fd, part)
            at, left, piece = at + len(part), left - len(part), piece[len(part) :]
