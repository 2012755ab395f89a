"""What a site lets run: a file of rules, asked for each image that is opened, of whatever use.

A line is an action and its conditions, all of which have to be true: the first line that fits
decides, and where none does, the image is refused. docs/signatures.md.
"""

import os
import pwd

from singrun import syscalls
from singrun.errors import RunError, say

RUN, WARN, REFUSE = "run", "warn", "refuse"
_CONDITIONS = ("path", "signer", "registry", "user")
_LISTS = ("signers", "revoked")
_DEFAULTS = {
    "signers": ["/etc/singbuild/allowed_signers"],
    "revoked": ["/etc/singbuild/revoked_keys"],
}
_LARGEST, _PIECE = 1 << 20, 1 << 14  # bytes; room for a mebibyte at once costs 20 µs
_REMEDY = "Ask the administrator, or sign the image: singbuild sign."


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    # No class: each costs a launch some microseconds. An action, its conditions as pairs of a word
    # of _CONDITIONS and a pattern, and the number of the line.
    Rule = tuple[str, list[tuple[str, str]], int]
    Lists = dict[str, list[str]]


def check(policy_path: str, fd: int, path: str) -> None:
    """Let an open image pass, warn of it, or raise RunError. path: as the caller names it."""
    rules, lists = _parsed(policy_path)
    subject = _Subject(fd, path, lists)
    for action, conditions, number in rules:
        if all(subject.fits(kind, pattern) for kind, pattern in conditions):
            where = f"{policy_path}, line {number}"
            if action == REFUSE:
                why = f"{where} refuses it."
                raise RunError(f"{path} may not be run here", why=why, remedy=_REMEDY)
            if action == WARN:
                say(f"{path}: {where} warns of it. {subject.described()}")
            return
    why = f"No line of {policy_path} lets it. {subject.described()}"
    raise RunError(f"{path} may not be run here", why=why, remedy=_REMEDY)


def _parsed(path: str) -> "tuple[list[Rule], Lists]":
    """Return the rules in their order, and the lists of signers and of revoked keys. RunError."""
    rules: "list[Rule]" = []  # noqa: UP037  3.9
    lists: "Lists" = {}  # noqa: UP037
    for number, line in enumerate(_text(path).split("\n"), 1):
        action, *rest = line.partition("#")[0].split() or [""]
        if action in _LISTS and len(rest) == 1:
            lists.setdefault(action, []).append(rest[0])
        elif action:
            pairs = [word.partition("=") for word in rest]
            sound = all(kind in _CONDITIONS and pattern for kind, _, pattern in pairs)
            if action not in (RUN, WARN, REFUSE) or not sound:
                what = f"{path}, line {number}: cannot understand {' '.join([action, *rest])!r}"
                words = ", ".join(_CONDITIONS)
                remedy = f"Say run, warn or refuse, then {words}, each with =PATTERN."
                raise RunError(what, remedy=remedy)
            rules.append((action, [(kind, pattern) for kind, _, pattern in pairs], number))
    for name, paths in _DEFAULTS.items():
        lists.setdefault(name, paths)
    return rules, lists


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = piece = os.read(fd, _PIECE)
            while piece and len(data) <= _LARGEST:
                piece = os.read(fd, _PIECE)
                data += piece
        finally:
            os.close(fd)
    except OSError as error:
        what, remedy = f"Cannot read {path}", "Ask the administrator to make it readable."
        raise RunError(what, why=f"{error.strerror}.", remedy=remedy) from None
    if len(data) > _LARGEST:
        raise RunError(f"{path} is longer than a mebibyte")
    return data.decode("utf-8", "surrogateescape")


class _Subject:
    """An image, its caller and its signers, as far as a rule asks for them."""

    def __init__(self, fd: int, path: str, lists: "Lists") -> None:
        self._fd, self._path, self._lists = fd, path, lists
        # The name of the file itself, however it was spelled and by whatever links.
        self._real = os.readlink(f"/proc/self/fd/{fd}")
        self._names: "list[str] | None" = None  # noqa: UP037  3.9

    def fits(self, kind: str, pattern: str) -> bool:
        """Whether a condition is true."""
        if kind == "path":
            return matches(self._real, pattern)
        if kind == "user":
            return any(matches(name, pattern) for name in _users())
        if kind == "registry":
            return bool(origin := _origin(self._real)) and matches(origin, pattern)
        return any(_is_signer(name, pattern) for name in self._signers())

    def _signers(self) -> "list[str]":
        if self._names is None:
            self._names = []
            if os.path.isfile(self._real):
                from singrun.images import verdicts

                key_files = (self._lists["signers"], self._lists["revoked"])
                self._names = verdicts.names_of(self._fd, self._path, *key_files)
        return self._names

    def described(self) -> str:
        """Say who signed it, as far as that was asked."""
        if self._names is None:
            return ""
        return f"It is signed by {', '.join(self._names) or 'nobody whom the site knows'}."


def _is_signer(name: str, pattern: str) -> bool:
    """Whether a principal, which a list may have as a pattern itself, is one that a rule means."""
    return name == pattern or ("*" not in name and matches(name, pattern))


def _users() -> "list[str]":
    """Return the names of the users whose rights this process has: behind sudo root's, too."""
    # Behind sudo only the rights to files are the user's; -1 is nobody, and changes nothing.
    uids = {*os.getresuid(), syscalls.setfsuid(-1)}
    names = []
    for uid in uids:
        try:
            names.append(pwd.getpwuid(uid).pw_name)
        except KeyError:
            names.append(str(uid))
    return names


def _origin(path: str) -> str:
    """Return what an image was pulled from, as docker://NAME; "" for any other file.

    It lies in the caller's cache or in a library, in a directory that is named so: library.place().
    """
    directory, _, _ = path.rpartition("/")
    parent, _, key = directory.rpartition("/")
    if ":" not in key:
        return ""
    if parent not in map(os.path.realpath, _places()):
        return ""
    scheme, _, name = key.replace("%2F", "/").replace("%25", "%").partition(":")
    return f"{scheme}://{name}"


def _places() -> "Iterator[str]":
    """Yield the directories in which a name says what an image was pulled from.

    A policy binds root also where a user's variables came through sudo: these may name a cache or
    a library that the user has filled.
    """
    from singrun.images import library, pull_cache

    try:
        cache = pull_cache.cache()
    except RunError:  # root's settings, with the rights of who called sudo
        cache = ""
    if _is_own(cache):  # else singrun pulls nothing into it
        yield f"{cache}/{pull_cache.DIRECTORY}"
    yield from library.directories(enforce=os.geteuid() != 0)


def _is_own(directory: str) -> bool:
    """Whether a directory is of this process's user, and nobody else may write to it."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def matches(text: str, pattern: str) -> bool:
    """Whether a text fits a pattern in which * stands for any letters, also / and none."""
    first, *parts = pattern.split("*")
    if not parts:
        return text == pattern
    *middle, last = parts
    if not (text.startswith(first) and len(text) >= len(first) + len(last)):
        return False
    if not text.endswith(last):
        return False
    rest = text[len(first) : len(text) - len(last)]
    for part in middle:
        _, separator, rest = rest.partition(part) if part else ("", "x", rest)
        if not separator:
            return False
    return True
