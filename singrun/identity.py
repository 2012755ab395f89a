"""Who calls, and how the same user is shown inside. Asked of the host before the pivot.

Name services (LDAP, sssd) need the host's files, so nothing here may run later.
"""

import grp
import os
import pwd

from singrun import syscalls


class Caller:
    """The calling user: ids, name and home as the host knows them.

    A user without a passwd entry has no name, and a home only by $HOME.
    """

    def __init__(self) -> None:
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.groups = sorted({self.gid, *os.getgroups()})
        try:
            self._entry: pwd.struct_passwd | None = pwd.getpwuid(self.uid)
        except KeyError:
            self._entry = None

    @property
    def home(self) -> str:
        """The home directory: $HOME if it is absolute, else the passwd entry's, else ""."""
        wish = os.environ.get("HOME", "")
        if wish.startswith("/"):
            return os.path.normpath(wish)
        return os.path.normpath(self._entry.pw_dir) if self._entry else ""

    def passwd_line(self, home: str) -> bytes:
        """Return the caller's line of passwd(5), with ``home``; b"" without an entry."""
        entry = self._entry
        if entry is None:
            return b""
        words = (
            entry.pw_name,
            "x",
            str(self.uid),
            str(self.gid),
            entry.pw_gecos,
            home,
            entry.pw_shell,
        )
        return os.fsencode(":".join(words) + "\n")

    def group_lines(self) -> bytes:
        """Return a line of group(5) for each group of the caller that has a name on the host."""
        member = self._entry.pw_name if self._entry else ""
        lines = []
        for gid in self.groups:
            try:
                lines.append(f"{grp.getgrgid(gid).gr_name}:x:{gid}:{member}\n")
            except KeyError:
                continue
        return os.fsencode("".join(lines))


def map_ids(proc: int, *, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Map one uid and one gid of the new user namespace. user_namespaces(7).

    proc: a descriptor of /proc/self; inside, outside: (uid, gid). A process
    without privilege may write gid_map only after giving up setgroups(2).
    """
    _write(proc, "setgroups", "deny")
    _write(proc, "uid_map", f"{inside[0]} {outside[0]} 1")
    _write(proc, "gid_map", f"{inside[1]} {outside[1]} 1")


def forbid_new_privileges() -> None:
    """No setuid program and no file capability gives anything from here on. prctl(2)."""
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _write(proc: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY, dir_fd=proc)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
