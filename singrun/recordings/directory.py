"""The directory of a user's recordings, what it holds of each command line, and the player's trial.

/var/tmp/singrun-launches-UID, of this host alone and its owner's alone, holds
    NAME       a recording; empty: this command line was seen once; FAILED: it cannot be played
    player     a link to the player that could be executed on this host, or to ".": it could not
    checked    when that was seen, by its st_mtime
    ranks-NAME a link to words: the variable that tells ranks, or "-"; those that tell their jobs
    set-NAME   the recording of a set of ranks; empty: one of them sets up and makes it
bin/singrun executes the player where that link leads to it and ``checked`` is newer.
"""

import os
import stat
import sys
import time

from singrun.recordings import form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FAILED: "Final" = b"failed\n"  # what could not be recorded, or what player.c could not play
_MOST, _DAY = 64, 86400  # names, half of which go when they are so many; seconds
_MOST_OF_RANKS = 16
_LINK, _CHECKED = "player", "checked"
_RANKS = ("ranks-", "set-")


def path() -> str:
    """Return the directory of the effective user."""
    return f"/var/tmp/singrun-launches-{os.geteuid()}"  # noqa: S108  opened() checks its owner


def opened() -> int:
    """Return a descriptor of the directory, which is made if need be. OSError for another's."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(path(), flags)
    except FileNotFoundError:
        os.mkdir(path(), 0o700)
        fd = os.open(path(), flags)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        raise PermissionError(path())
    return fd


def place_of(words: "list[str]") -> "tuple[int, str] | None":
    """Return where to record a command line, as a directory and a name in it; None for nowhere.

    words: those before the program. Recorded is what was seen before, and has not failed for a day.
    """
    name = form.name_of([sys.argv[0], *words], os.getcwd(), os.environ.get("PWD", ""))
    try:
        directory = opened()
        if _wants(directory, name):
            return directory, name
        os.close(directory)
    except OSError:
        pass  # it is only of use to the next launch
    return None


def _wants(directory: int, name: str) -> bool:
    """Whether to record now, else note that a name was seen: most do not come again."""
    try:
        status = os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        _make_room(directory)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory))
        return False
    has_failed = status.st_size == len(FAILED)
    return not (has_failed and 0 <= time.time() - status.st_mtime < _DAY)


def _make_room(directory: int) -> None:
    """Remove half of the names if they are many: those seen once, then the oldest recordings."""
    names = {*os.listdir(directory)} - {_LINK, _CHECKED}
    rows = _rows(directory, [name for name in names if not name.startswith(_RANKS)])
    ages = sorted((status.st_size > 0, status.st_mtime_ns, name) for name, status in rows)
    _remove_half(directory, ages, _MOST - 2)


def make_room_for_set(directory: int) -> None:
    """Remove half of the names of ranks likewise, links last: a set dies with its job. OSError.

    Who waits for one of them, or has to make it, goes on all the same.
    """
    rows = _rows(directory, [name for name in os.listdir(directory) if name.startswith(_RANKS)])
    ages = sorted((stat.S_ISLNK(status.st_mode), status.st_mtime_ns, name) for name, status in rows)
    _remove_half(directory, ages, _MOST_OF_RANKS)


def _rows(directory: int, names: "list[str]") -> "list[tuple[str, os.stat_result]]":
    return [(name, os.lstat(name, dir_fd=directory)) for name in names]


def _remove_half(directory: int, ages: "list[tuple[bool, int, str]]", most: int) -> None:
    for _, _, name in ages[: -(most // 2)] if len(ages) >= most else ():
        os.unlink(name, dir_fd=directory)


def write_link(directory: int, name: str, text: str) -> None:
    """Make a link to ``text``, if it is not there, or leave nothing behind."""
    try:
        if os.readlink(name, dir_fd=directory) == text:
            return
    except OSError:
        pass  # there is none
    new = f".{name}.{os.getpid()}"
    try:
        os.symlink(text, new, dir_fd=directory)
    except OSError:
        return  # it is only of use to the next ranks
    try:
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(new, dir_fd=directory)


def write(directory: int, name: str, data: bytes) -> None:
    """Put a recording in its place at once, or leave nothing behind. Raises OSError."""
    new = f".{name}.{os.getpid()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    try:
        os.fchmod(fd, 0o600)
        if os.write(fd, data) == len(data):
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
    except OSError:
        os.unlink(new, dir_fd=directory)
        raise
    finally:
        os.close(fd)
    os.unlink(new, dir_fd=directory)


def try_player(player: str) -> None:
    """Execute the player, at most once a day, and note whether this host can.

    A shell whose exec fails ends, and an older C library ends the player: bin/singrun could not go
    on to Python.
    """
    try:
        directory = opened()
    except OSError:
        return  # it is only of use to the next launch
    try:
        _try(directory, player)
    except OSError:
        return
    finally:
        os.close(directory)


def _try(directory: int, player: str) -> None:
    try:
        noted = os.lstat(_LINK, dir_fd=directory)
        is_older = os.stat(_CHECKED, dir_fd=directory).st_mtime_ns <= os.stat(player).st_mtime_ns
        if not is_older and 0 <= time.time() - noted.st_mtime < _DAY:
            return
    except FileNotFoundError:
        pass
    target = player if _can_execute(player) else "."
    new = f".{_LINK}.{os.getpid()}"
    os.symlink(target, new, dir_fd=directory)
    os.rename(new, _LINK, src_dir_fd=directory, dst_dir_fd=directory)
    fd = os.open(_CHECKED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    os.utime(fd)
    os.close(fd)


def _can_execute(player: str) -> bool:
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    try:
        child = os.posix_spawn(player, [player], {}, file_actions=silent)
    except OSError:
        return False
    return os.waitpid(child, 0)[1] == 0
