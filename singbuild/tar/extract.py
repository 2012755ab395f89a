"""Unpacks tar streams into a directory, and never anywhere else.

``beneath`` opens the directory of every entry and of every hard link's target, and nothing outside
the root. A link at the end of a path is never followed. An existing file is removed, never
overwritten: it may have another hard link, whose data must not change.
In the layers of a container image, ``whiteouts`` removes the entries that a later layer hides.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Protocol, Self

from singbuild import host
from singbuild.contract import Reporter
from singbuild.ext3.node import Owner, one_line
from singbuild.tar.acl import inherited
from singbuild.tar.beneath import Directory, Tree
from singbuild.tar.limits import Limits, Quota
from singbuild.tar.member_path import refused, split, split_target
from singbuild.tar.owners import Ownership
from singbuild.tar.read import Member, TarStream
from singbuild.tar.whiteouts import WHITEOUT, Whiteouts

LONGEST_PATH = 4095  # bytes: PATH_MAX without its zero
# Exceptions that a hostile member causes: a zero byte in its name raises ValueError, a number too
# large for its C type raises OverflowError.
MEMBER_ERRORS = (OSError, ValueError, OverflowError)
# Errors of the host, not of the member: unpacking raises them unchanged.
HOST_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


# Types of members: POSIX pax(1), ustar "typeflag".
_HARD_LINK, _DIRECTORY = b"1", b"5"
# Prefixes of the extended attributes that belong to the tree; the others are the host's.
_TREE_PREFIXES = ("user.", "trusted.", "security.capability", "system.posix_acl_")
_SPECIAL = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}


class _Make(Protocol):
    """Makes one entry: ``name`` in the open directory ``parent``; path: from the root."""

    def __call__(
        self,
        unpacker: Unpacker,
        member: Member,
        archive: TarStream,
        parent: Directory,
        name: bytes,
        path: bytes,
        /,
    ) -> None: ...


class Unpacker:
    """Applies archives to one tree, one after the other; a context manager.

    root: an existing directory that nobody else changes meanwhile. whiteouts: the archives are
    layers of an image. is_baseline: takes an entry's path and modification time in nanoseconds;
    ``baseline_paths`` collects the paths for which it returns True.

    owners: receives, by path, the owners and devices that this process may not set, for the seal
    to set; an empty file stands for a device. If None, ``ownership.owners`` receives the owners;
    entries keep this process's owner, devices are left out, and one warning reports each kind.
    """

    def __init__(
        self,
        root: Path,
        report: Reporter,
        *,
        limits: Limits | None = None,
        whiteouts: bool = False,
        owners: dict[bytes, Owner] | None = None,
        is_baseline: Callable[[bytes, int], bool] = lambda _path, _mtime: False,
    ) -> None:
        self.report, self._is_baseline = report, is_baseline
        self.baseline_paths: set[bytes] = set()
        self._quota = Quota(limits or Limits.from_environment())
        self.ownership = Ownership(report, owners)
        self._tree = Tree(root, self._note_implied, self._forget)
        self._whiteouts = Whiteouts(self._tree.remove) if whiteouts else None
        self._umask = host.umask()
        self._pending_directories: dict[bytes, Member] = {}  # path -> header, for _set_directories

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

        chunks: the archive, uncompressed, in pieces of any size, consumed to the last.
        Raises SourceError, which names the entry, or an OSError of the host, such as a full disk.
        """
        archive = TarStream(chunks)
        for member in archive:
            self._quota.count_member(member)
            self._tree.close_surplus()
            try:
                self._unpack_member(member, archive)
            except MEMBER_ERRORS as error:
                if _is_host_error(error):
                    raise
                raise refused(member, getattr(error, "strerror", "") or str(error)) from error
        self._tree.close_all()
        if self._whiteouts:
            self._whiteouts.end_layer(self._tree)

    def _forget(self, path: bytes) -> None:
        """Drop what is noted of an entry that was removed."""
        self.ownership.owners.pop(path, None)
        self._pending_directories.pop(path, None)

    def _note_implied(self, where: Directory, name: bytes) -> None:
        """Note a directory that a member's path leads through and that no member has made.

        The tree has just made it: older notes under its path are about an entry that was removed.
        """
        path = where.inside(name)
        self._quota.count_implied(path)
        self._forget(path)
        parent_member = self._pending_directories.get(where.path)
        # A new directory inherits its parent's group and set-group-id bit, inode(7), and default
        # ACL, acl(5). The kernel does not do it here where the parent gets them only at the end,
        # or where the host lacks the group: so they are noted.
        acl = parent_member and inherited(parent_member.xattrs)
        if parent_member and (acl or parent_member.mode & stat.S_ISGID):
            mode, attributes = acl or (0o755, {})
            gid = parent_member.gid if parent_member.mode & stat.S_ISGID else os.getegid()
            mode |= parent_member.mode & stat.S_ISGID
            self._pending_directories[path] = Member(
                *(path, _DIRECTORY, mode, os.geteuid(), gid, 0, time.time_ns(), b"", (0, 0)),
                xattrs=attributes,
            )

    def _unpack_member(self, member: Member, archive: TarStream) -> None:
        parent_path, name = split(member)
        if self._whiteouts and name.startswith(WHITEOUT):
            self._whiteouts.apply(self._tree, member, parent_path, name)
            return
        if not name:  # the root directory itself
            if member.kind != _DIRECTORY:
                raise refused(member, "it has no name")
            self._note_directory(member, b"")
            self._note_for_baseline(b"", member.mtime)
            return
        make = self._MAKERS.get(member.kind)
        if make is None:
            raise refused(member, f"its type {member.kind!r} is unknown")
        parent = self._tree.directory(parent_path)
        if (pending := self._pending_directories.get(parent.path)) and pending.mode & stat.S_ISGID:
            # The parent may have been opened before it got its set-group-id bit. New entries get
            # its group, inode(7), and need a chown(2) even if the header has this process's ids.
            parent = parent._replace(is_setgid=True)
        path = parent.inside(name)
        if len(path) > LONGEST_PATH:
            raise refused(member, f"its path is longer than {LONGEST_PATH} bytes")
        self._quota.count_name(len(path))
        if self._whiteouts:
            self._whiteouts.add(path)
        self.ownership.owners.pop(path, None)
        make(self, member, archive, parent, name, path)
        # A hard link has the time and mode of its inode; its header sets neither.
        is_hard_link = member.kind == _HARD_LINK
        mtime = os.lstat(name, dir_fd=parent.fd).st_mtime_ns if is_hard_link else member.mtime
        self._note_for_baseline(path, mtime)

    def _note_for_baseline(self, path: bytes, mtime: int) -> None:
        if self._is_baseline(path, mtime):
            self.baseline_paths.add(path)

    def _make_file(
        self, member: Member, archive: TarStream, parent: Directory, name: bytes, path: bytes
    ) -> None:
        try:
            fd = os.open(name, _CREATE, member.mode & 0o777, dir_fd=parent.fd)
        except FileExistsError:
            self._tree.remove(parent, name)
            fd = os.open(name, _CREATE, member.mode & 0o777, dir_fd=parent.fd)
        try:
            if member.segments is None:
                for piece in archive.data():
                    _write(fd, piece)
            else:
                _write_sparse(fd, member, archive)
            if self.ownership.needs_chown(member, parent):
                self.ownership.set_owner(fd, member, path)
            # The mode is set after the owner, since chown(2) clears set-user-ID. Most files need
            # no fchmod(2): open(2) has set all bits.
            if member.mode & (0o7000 | self._umask):
                os.fchmod(fd, member.mode)
            if member.xattrs:
                self.ownership.set_attributes(fd, member)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _make_directory(
        self, member: Member, _archive: TarStream, parent: Directory, name: bytes, path: bytes
    ) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent.fd)
        except FileExistsError:
            if not stat.S_ISDIR(parent.kind(name)):
                self._tree.remove(parent, name)
                os.mkdir(name, 0o755, dir_fd=parent.fd)
        self._note_directory(member, path)

    def _note_directory(self, member: Member, path: bytes) -> None:
        """Note a directory's metadata for the end.

        With the set-group-id bit, owner and mode are set now: new entries inherit them, inode(7).
        """
        self._pending_directories[path] = member
        fd = self._tree.directory(path).fd  # it stays open: what it holds follows, mostly
        if (member.mode | os.fstat(fd).st_mode) & stat.S_ISGID:
            self.ownership.set_owner(fd, member, path)
            os.fchmod(fd, member.mode | stat.S_IRWXU)

    def _make_symlink(
        self, member: Member, _archive: TarStream, parent: Directory, name: bytes, path: bytes
    ) -> None:
        self._replace(parent, name, lambda: os.symlink(member.link, name, dir_fd=parent.fd))
        self.ownership.set_by_name(member, parent, name, path)

    def _make_hard_link(
        self, member: Member, _archive: TarStream, parent: Directory, name: bytes, path: bytes
    ) -> None:
        source_parent_path, source_name = split_target(member)
        try:
            source = self._tree.directory(source_parent_path, make=False)
            if _is_same_entry(source, source_name, parent, name):
                return
            try:
                _link(source, source_name, parent, name)
            except FileExistsError:
                self._tree.remove(parent, name)
                # Open the source again: its path may have led through the entry just removed.
                source = self._tree.directory(source_parent_path, make=False)
                _link(source, source_name, parent, name)
        except FileNotFoundError:
            why = f"it is a link to {one_line(member.link)}, which is not there"
            raise refused(member, why) from None
        # Owners are recorded by path: a hard link gets its target's, whatever its header says.
        if owner := self.ownership.owners.get(source.inside(source_name)):
            self.ownership.owners[path] = owner

    def _make_special_file(
        self, member: Member, _archive: TarStream, parent: Directory, name: bytes, path: bytes
    ) -> None:
        kind = _SPECIAL[member.kind]
        device = os.makedev(*member.device)
        mode = kind | member.mode
        try:
            self._replace(parent, name, lambda: os.mknod(name, mode, device, dir_fd=parent.fd))
        except PermissionError:
            if self.ownership.records_for_seal:
                self._replace(parent, name, lambda: _make_empty(parent, name))
                self.ownership.owners[path] = Owner(member.uid, member.gid, mode, device)
                os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent.fd)
            else:
                self.ownership.warn_once("device nodes are left out", path)
            return
        self.ownership.set_by_name(member, parent, name, path)
        if member.mode & (0o7000 | self._umask):
            os.chmod(name, member.mode, dir_fd=parent.fd)

    _MAKERS: ClassVar[dict[bytes, _Make]] = {
        b"0": _make_file,
        _HARD_LINK: _make_hard_link,
        b"2": _make_symlink,
        _DIRECTORY: _make_directory,
        **dict.fromkeys(_SPECIAL, _make_special_file),
    }

    def _replace(self, parent: Directory, name: bytes, make: Callable[[], None]) -> None:
        """Make an entry in the place of whatever is there."""
        try:
            make()
        except FileExistsError:
            self._tree.remove(parent, name)
            make()

    def _set_directories(self) -> None:
        """Set the metadata of directories, the deepest first.

        Called when all entries exist: a new one would change its directory's time, and a
        directory's mode may forbid new ones.
        """
        for path in sorted(self._pending_directories, reverse=True):
            member = self._pending_directories[path]
            try:
                fd = self._tree.exactly(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later member replaced or removed it
                raise
            try:
                self._set_directory(fd, member, path)
            except MEMBER_ERRORS as error:
                if _is_host_error(error):
                    raise
                raise refused(member, getattr(error, "strerror", "") or str(error)) from error
            finally:
                os.close(fd)

    def _set_directory(self, fd: int, member: Member, path: bytes) -> None:
        self.ownership.set_owner(fd, member, path)
        os.fchmod(fd, member.mode)
        # A lower layer may have made the directory: remove the attributes that it set, but keep
        # the host's, such as security.selinux.
        for name in os.listxattr(fd):
            if name.startswith(_TREE_PREFIXES):
                os.removexattr(fd, name)
        self.ownership.set_attributes(fd, member)
        os.utime(fd, ns=(member.mtime, member.mtime))


def _is_host_error(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in HOST_ERRNOS


def _make_empty(parent: Directory, name: bytes) -> None:
    os.close(os.open(name, _CREATE, 0o600, dir_fd=parent.fd))


def _link(source: Directory, source_name: bytes, parent: Directory, name: bytes) -> None:
    os.link(source_name, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)


def _is_same_entry(one: Directory, name: bytes, other: Directory, other_name: bytes) -> bool:
    """Whether both are the same name in the same directory."""
    return name == other_name and os.path.samestat(os.fstat(one.fd), os.fstat(other.fd))


def _write(fd: int, data: memoryview) -> None:
    while (count := os.write(fd, data)) < len(data):
        data = data[count:]


def _write_sparse(fd: int, member: Member, archive: TarStream) -> None:
    """Write each segment's data at its offset; the gaps between segments stay holes."""
    os.ftruncate(fd, member.real_size)
    segments = iter(member.segments or ())
    at, remaining = 0, 0
    for piece in archive.data():
        while piece:
            while not remaining:
                at, remaining = next(segments)
            part = piece[:remaining]
            os.lseek(fd, at, os.SEEK_SET)
            _write(fd, part)
            at, remaining, piece = at + len(part), remaining - len(part), piece[len(part) :]
