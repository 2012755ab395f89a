"""What the caller brings along and finds again inside: user, directory, umask, variables, signals.

Taken before anything is done on the host; given back when nothing else is left to do.
"""

import os

from singrun import program
from singrun.environment import inherited, variables
from singrun.errors import RunError
from singrun.identity import Caller, forbid_new_privileges
from singrun.mounts import shared
from singrun.namespaces.waiting import Outside
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from singrun.namespaces.holding import Holder


class Directory:
    """Where the caller stands. physical: getcwd(3), or "" when that is gone."""

    def __init__(self) -> None:
        try:
            self.physical = os.getcwd()
            self._identity: os.stat_result | None = os.stat(".")
        except OSError:
            self.physical, self._identity = "", None

    def enter(self, wish: str, home: str) -> str:
        """Change to the directory inside, and return its name for PWD.

        wish: --pwd, which must exist. Else the first that there is: the same
        directory by the caller's name for it ($PWD, perhaps through links), by
        its own name, the home, the root.
        """
        if wish:
            return _entered_as_asked(wish)
        logical = os.environ.get("PWD", "")
        if logical.startswith("/") and self._is_same(logical):
            os.chdir(logical)
            return logical
        return next(path for path in (self.physical, home, "/") if path and _entered(path))

    def _is_same(self, path: str) -> bool:
        try:
            return self._identity is not None and os.path.samestat(self._identity, os.stat(path))
        except OSError:
            return False


class Origin:
    """Who calls, from where, and with what. behind: see variables.mounts()."""

    def __init__(self, request: Request) -> None:
        self._umask = os.umask(0o022)
        self.caller = Caller(as_caller=request.as_caller)
        self.directory = Directory()
        self.caller.restore_rights()  # /proc/self is root's
        self._given = inherited.inherited()
        self.caller.lower_rights()
        self.winning = variables.winners(self._given, request)
        self._request, self.home = request, shared.home(request, self.caller)
        self.behind: inherited.Environment = {}
        if request.nv or request.rocm or request.fabric:
            from singrun.hardware import drivers

            self.behind = drivers.BEHIND
        if request.contain:
            from singrun import terminal

            self._close_back_doors = terminal.close_back_doors

    def execute(self, image: str, outside: "Outside | Holder | None" = None) -> "NoReturn":
        """Become the program, in the namespaces that are entered, as the caller."""
        request = self._request
        forbid_new_privileges()
        if request.contain:
            self._close_back_doors()
        words = inherited.inner(self._given, image, request, self.caller)
        words[b"PWD"] = os.fsencode(self.directory.enter(request.directory, self.home))
        if request.home:
            words[b"HOME"] = os.fsencode(self.home)
        for name, directory in self.behind.items():  # the image's scripts may overwrite it
            words[name] = b":".join(filter(None, (words.get(name), directory)))
        if outside:
            outside.enter(own_pids=request.pid)
        os.umask(self._umask)
        inherited.restore_signals(inherited.SIGPIPE, inherited.SIGXFSZ)
        program.execute(request, words, self.winning)


def _entered(path: str) -> bool:
    try:
        os.chdir(path)
    except OSError:
        return False
    return True


def _entered_as_asked(path: str) -> str:
    try:
        os.chdir(path)
    except OSError as error:
        remedy = "Give a directory of the image, or bind one with --bind."
        why = f"{error.strerror}."
        raise RunError(f"Cannot enter --pwd {path} in the image", why=why, remedy=remedy) from None
    return os.getcwd()
