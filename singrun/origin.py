"""What the caller brings along and finds again inside: user, directory, umask, variables, signals.

Taken before anything is done on the host; given back when nothing else is left to do.
"""

import os

from singrun import program
from singrun.environment import inherited, variables
from singrun.errors import RunError, say
from singrun.identity import Caller, forbid_new_privileges
from singrun.mounts import launch_table
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from singrun.namespaces.holding import Holder
    from singrun.namespaces.waiting import Waiter


class Directory:
    """The caller's current directory. physical: getcwd(3), or "" when that is gone or closed.

    logical: the name in $PWD, which may lead there through links (POSIX, "pwd"), or physical.
    """

    def __init__(self) -> None:
        self.physical, self._why = "", "it has been removed"
        self._identity: os.stat_result | None = None
        self._name = name = os.environ.get("PWD", "")
        try:
            self._name = os.getcwd()
            self._identity = os.stat(".")
            self.physical = self._name
        except PermissionError as error:
            self._why = str(error.strerror)
        # It was removed while the caller stood in it: getcwd(3).
        except FileNotFoundError:
            pass
        usable = name.startswith("/") and ".." not in name.split("/") and self._is_same(name)
        self.logical = os.path.normpath(name) if usable else self.physical

    @property
    def names(self) -> list[str]:
        """Return the names under which it shall be inside, its own first."""
        return list(dict.fromkeys(name for name in (self.physical, self.logical) if name))

    def enter(self, option: str, home: str, *, shared: bool) -> str:
        """Change to the directory inside, and return its name for PWD.

        option: --pwd, which must exist. Else the first that there is: the same
        directory by the caller's name for it, by its own name, the home, the
        root. shared: warn before the home or the root.
        """
        if option:
            return _enter_option(option)
        if self.logical and self._is_same(self.logical) and not _chdir_failure(self.logical):
            return self.logical
        why = _chdir_failure(self.physical) if self.physical else self._why
        if not why:
            return self.physical
        path = next(path for path in (home, "/") if path and not _chdir_failure(path))
        if shared:
            name = f"the current directory {self._name}".rstrip()
            say(f"Cannot enter {name}: {why}; starting in {path}")
        return path

    def _is_same(self, path: str) -> bool:
        try:
            return self._identity is not None and os.path.samestat(self._identity, os.stat(path))
        except OSError:
            return False


class Origin:
    """Who calls, from where, and with what. appended: see variables.mounts()."""

    def __init__(self, request: Request) -> None:
        self._umask = os.umask(0o022)
        isolation = request.isolation
        self.caller = Caller(
            as_caller=isolation.as_caller,
            fakeroot=isolation.fakeroot,
            ids=(isolation.uid, isolation.gid),
        )
        self.directory = Directory()
        self.caller.restore_rights()  # /proc/self is root's
        self._environment = inherited.caller_environment()
        self.caller.lower_rights()
        self.caller_variables = inherited.caller_variables(
            self._environment, request.mounts, self.caller
        )
        self.overrides = variables.overrides(
            self._environment, request.variables, has_home=bool(request.mounts.home)
        )
        self._host_paths = program.host_paths(request.program.arguments)
        self._request, self.home = request, launch_table.home(request.mounts, self.caller)
        self.appended: inherited.Environment = {}
        self.note_begin: "Callable[[], None] | None" = None  # noqa: UP037
        self.note_end: "Callable[[str, inherited.Environment], None] | None" = None  # noqa: UP037
        if request.hardware.wants_drivers():
            from singrun.hardware import drivers

            self.appended = drivers.APPENDED_DIRECTORIES
        if isolation.keep_privs and self.caller.uid:
            raise RunError("Cannot use --keep-privs", why="It is for root.", remedy="Leave it out.")
        if isolation.changes_rights:
            from singrun.namespaces import capabilities

            self._settle_rights = capabilities.settle
        if request.mounts.contain:
            from singrun import terminal

            self._close_back_doors = terminal.close_back_doors

    def _enter_directory(self) -> str:
        request = self._request
        shared = not request.mounts.contain and "cwd" not in request.mounts.no_mount
        return self.directory.enter(request.program.directory, self.home, shared=shared)

    def execute(self, image: str, waiter: "Waiter | Holder | None" = None) -> "NoReturn":
        """Become the program, in the namespaces that are entered, as the caller."""
        request = self._request
        if self.note_begin:
            self.note_begin()
        forbid_new_privileges()
        if request.mounts.contain:
            self._close_back_doors()
        words = inherited.program_environment(self._environment, image, request, self.caller)
        words[b"PWD"] = os.fsencode(self._enter_directory())
        program.tell_missing(self._host_paths)
        # For programs that are executed without the image's scripts. These may overwrite the
        # variables, so variables.mounts() has them append the directories once more.
        for name, directory in self.appended.items():
            words[name] = b":".join(filter(None, (words.get(name), directory)))
        program.check_app(request.program)
        if request.isolation.changes_rights:
            self._settle_rights(request.isolation)
        if waiter:
            waiter.enter(own_pids=request.isolation.pid)
        os.umask(0o022 if request.program.no_umask else self._umask)
        inherited.restore_signals(inherited.SIGPIPE, inherited.SIGXFSZ)
        if self.note_end:
            self.note_end(image, words)
        program.execute(request.program, words, self.caller_variables, self.overrides)


def _chdir_failure(path: str) -> str:
    """Change to the directory ``path``; "" if that went well, else what the kernel said."""
    try:
        os.chdir(path)
    except OSError as error:
        return error.strerror or "refused"
    return ""


def _enter_option(path: str) -> str:
    try:
        os.chdir(path)
    except OSError as error:
        remedy = "Give a directory of the image, or bind one with --bind."
        why = f"{error.strerror}."
        raise RunError(f"Cannot enter --pwd {path} in the image", why=why, remedy=remedy) from None
    return os.getcwd()
