"""Sets owners, attributes and times of unpacked entries; records what this user may not set."""

from __future__ import annotations

import errno
import os
import re

from singbuild.contract import Reporter
from singbuild.errors import SourceError
from singbuild.ext3.node import Owner, one_line
from singbuild.tar.beneath import Directory
from singbuild.tar.read import Member

# What this process may not set, or what the file system below cannot hold.
_REFUSED = (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EINVAL)
# ext3 has one block for all attributes of an entry, and calls that full like a full disk.
_TOO_LARGE = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
_ROOM = 1 << 20  # bytes: with so much left it is not the disk


class Ownership:
    """Owners and attributes of one tree.

    owners: those that could not be set, by path. records_for_seal: the seal will set them.
    """

    def __init__(self, report: Reporter, owners: dict[bytes, Owner] | None = None) -> None:
        self.report = report
        self.records_for_seal = owners is not None
        self.owners: dict[bytes, Owner] = {} if owners is None else owners
        self._ids = os.geteuid(), os.getegid()
        self._warnings: dict[str, tuple[int, str]] = {}  # how many times, and the first path

    def needs_chown(self, member: Member, into: Directory) -> bool:
        """Whether a new entry of a directory needs a chown(2); most do not, and are quicker so."""
        return (member.uid, member.gid) != self._ids or into.is_setgid

    def set_by_name(self, member: Member, into: Directory, name: bytes, path: bytes) -> None:
        """Set owner, attributes and time of what cannot be opened: a link, a device, a fifo."""
        if self.needs_chown(member, into):
            try:
                os.chown(name, member.uid, member.gid, dir_fd=into.fd, follow_symlinks=False)
            except OSError as error:
                self._record(error, member, path)
        if member.xattrs:
            # No call sets attributes by directory and name; /proc/self/fd names the directory.
            self.set_attributes(b"/proc/self/fd/%d/%s" % (into.fd, name), member)
        times = (member.mtime, member.mtime)
        os.utime(name, ns=times, dir_fd=into.fd, follow_symlinks=False)

    def set_owner(self, fd: int, member: Member, path: bytes) -> None:
        """Set the owner of an open entry."""
        try:
            os.fchown(fd, member.uid, member.gid)
        except OSError as error:
            self._record(error, member, path)

    def _record(self, error: OSError, member: Member, path: bytes) -> None:
        """Record an owner that this process may not set, or that has no place in its namespace."""
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise error
        self.owners[path] = Owner(member.uid, member.gid)
        if not self.records_for_seal:
            self.warn_once("entries keep this user as their owner", path)

    def set_attributes(self, where: int | bytes, member: Member) -> None:
        """Set extended attributes of an open entry, or by a path whose end is not followed."""
        for name, value in member.xattrs.items():
            # Of the machine that made the archive: its SELinux policy, its overlay mounts.
            if name == "security.selinux" or re.match(r"(trusted|user)\.overlay\.", name):
                continue
            try:
                if isinstance(where, int):
                    os.setxattr(where, name, value)
                else:
                    os.setxattr(where, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno in _TOO_LARGE and _has_room(where):
                    raise _too_large(member, name, value) from error
                if error.errno not in _REFUSED:
                    raise
                self.warn_once(f"the attribute {name} is left out", member.name)

    def warn_once(self, what: str, path: bytes) -> None:
        """Note that something was left out, to be told at the end."""
        count, first = self._warnings.get(what, (0, one_line(path)))
        self._warnings[what] = count + 1, first

    def warn(self) -> None:
        """Warn of what was left out, once for each kind."""
        for what, (count, first) in self._warnings.items():
            more = f" and {count - 1:,} more" if count > 1 else ""
            self.report.warn(f"{what}, without root's rights: {first}{more}")


def _has_room(where: int | bytes) -> bool:
    room = os.statvfs(where.rpartition(b"/")[0] if isinstance(where, bytes) else where)
    return room.f_bavail * room.f_frsize > _ROOM


def _too_large(member: Member, name: str, value: bytes) -> SourceError:
    return SourceError(
        f"{one_line(member.name)}: its attribute {name} does not fit into an image",
        why=f"It has {len(value):,} bytes; ext3 holds about 4,000 for all attributes of an entry.",
        remedy="Remove it where the archive is made: setfattr -x NAME FILE",
    )
