"""The current directory: remembered on the host, entered again inside."""

import os

from singrun.errors import RunError


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
