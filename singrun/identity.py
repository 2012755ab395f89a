"""Who calls, and how the same user is shown inside. Asked of the host before the pivot.

Name services (LDAP, sssd) need the host's files, so nothing here may run later.
"""

import grp
import os
import pwd

from singrun import syscalls
from singrun.errors import RunError


class Caller:
    """The calling user: ids, name and home as the host knows them.

    as_caller: whoever called sudo, instead of the root that it made of him.
    A user without a passwd entry is given one, with what the environment says. fakeroot: he is
    root inside; ids: what else he is inside, where that was asked for.
    """

    def __init__(
        self,
        *,
        as_caller: bool = False,
        fakeroot: bool = False,
        ids: "tuple[int | None, int | None]" = (None, None),
    ) -> None:
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.behind_sudo = as_caller and self.uid == 0
        if as_caller:
            self.uid, self.gid = _sudo_ids()
        try:
            self._entry: pwd.struct_passwd | None = pwd.getpwuid(self.uid)
        except KeyError:
            self._entry = None
        if self.behind_sudo and (fakeroot or ids != (None, None)):
            what = "Cannot combine --as-caller with --fakeroot or --security"
            raise RunError(what, remedy="Leave one of them out.")
        self.fakeroot = fakeroot and self.uid != 0
        uid, gid = (0, 0) if self.fakeroot else (self.uid, self.gid)
        self.inside = (uid if ids[0] is None else ids[0], gid if ids[1] is None else ids[1])
        self.groups = sorted({self.gid, *self._supplementary()})

    @property
    def has_root(self) -> bool:
        """Whether singrun itself runs as root."""
        return self.behind_sudo or self.uid == 0

    def lower_rights(self) -> None:
        """Behind sudo, have the caller's rights to files and no others: what he names is his."""
        if self.behind_sudo:
            os.setgroups(self.groups)
            # fsuid, not euid: root's capabilities to mount stay, but those on files are dropped
            # (capabilities(7), "Effect of user ID changes"). The group first, while we may.
            syscalls.setfsgid(self.gid)
            syscalls.setfsuid(self.uid)

    def restore_rights(self) -> None:
        """Have root's rights to files again."""
        if self.behind_sudo:
            syscalls.setfsuid(0)
            syscalls.setfsgid(0)

    @property
    def name(self) -> str:
        """The login name; without an entry $USER, if that is nobody else's, or one with the uid."""
        return self._entry.pw_name if self._entry else _spare_name(self.uid)

    @property
    def shell(self) -> str:
        """The login shell."""
        return self._entry.pw_shell if self._entry else os.environ.get("SHELL", "/bin/sh")

    def _supplementary(self) -> list[int]:
        # sudo(8) replaces the supplementary groups by root's, so the host is asked for the user's.
        if self.behind_sudo and self._entry:
            return os.getgrouplist(self._entry.pw_name, self.gid)
        return [] if self.behind_sudo else os.getgroups()

    @property
    def home(self) -> str:
        """The home directory: $HOME if it is absolute, else the passwd entry's, else ""."""
        # sudo -E and env_keep leave $HOME as it was, plain sudo sets root's: neither is certain.
        variable = "" if self.behind_sudo else os.environ.get("HOME", "")
        if variable.startswith("/"):
            return os.path.normpath(variable)
        return os.path.normpath(self._entry.pw_dir) if self._entry else ""

    @property
    def home_inside(self) -> str:
        """Where the home is seen, if no option says so."""
        return "/root" if self.fakeroot else self.home

    def passwd_line(self, home: str) -> bytes:
        """Return the caller's line of passwd(5), with ``home``."""
        gecos = self._entry.pw_gecos if self._entry else ""
        if self.fakeroot:
            return f"root:x:0:0:root:{_field(home)}:/bin/sh\n".encode("utf-8", "surrogateescape")
        words = (self.name, "x", *map(str, self.inside), gecos, home or "/", self.shell)
        return os.fsencode(":".join(_field(word) for word in words) + "\n")

    def group_lines(self) -> bytes:
        """Return a line of group(5) for each group of the caller that has a name on the host."""
        if self.fakeroot:
            return b"root:x:0:\n"
        lines = []
        for gid in self.groups:
            try:
                lines.append(f"{grp.getgrgid(gid).gr_name}:x:{gid}:{self.name}\n")
            except KeyError:
                continue
        return os.fsencode("".join(lines))


def _sudo_ids() -> tuple[int, int]:
    """Return the ids that sudo(8) says it was called with."""
    words = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and all(word.isdecimal() for word in words):
        return int(words[0]), int(words[1])
    why = "SUDO_UID and SUDO_GID tell who called, and they are not set for root."
    raise RunError("Cannot run --as-caller", why=why, remedy="Say: sudo singrun … --as-caller")


def _spare_name(uid: int) -> str:
    name = os.environ.get("USER", "")
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        return f"user{uid}"
    # A name of somebody else would give the file's ids two meanings inside.
    try:
        pwd.getpwnam(name)
    except KeyError:
        return name
    return f"user{uid}"


def _field(word: str) -> str:
    """Return a word that cannot end a field or a line of passwd(5)."""
    return word.replace(":", " ").replace("\n", " ")


def map_ids(proc: int, *, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Map one uid and one gid of the new user namespace. user_namespaces(7).

    proc: a descriptor of /proc/self; inside, outside: (uid, gid). A process
    without privilege may write gid_map only after giving up setgroups(2).
    """
    # Else a user could leave a group that is denied access to a file: CVE-2014-8989.
    _write(proc, "setgroups", "deny")
    _write(proc, "uid_map", f"{inside[0]} {outside[0]} 1")
    _write(proc, "gid_map", f"{inside[1]} {outside[1]} 1")


def forbid_new_privileges() -> None:
    """Have setuid programs and file capabilities give no rights from here on. prctl(2)."""
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _write(proc: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY, dir_fd=proc)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
