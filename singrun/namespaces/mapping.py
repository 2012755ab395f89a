"""User namespaces with more ids than the caller's own, for --fakeroot.

newuidmap(1) is set-user-ID and works from outside, and in a namespace below only who stands above
it may map more than one id: so in both cases a child, forked before, stays where we leave.
"""

import os

from singrun import subordinate, syscalls
from singrun.errors import RunError
from singrun.images.fuse import found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PROGRAMS = ("newuidmap", "newgidmap")


class Outpost:
    """A child that does ``work`` for us in the namespace that it was forked in, when it is told."""

    def __init__(self, work: "Callable[[], bool]") -> None:
        reading, self._telling = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._telling)
            done = False
            try:
                done = bool(os.read(reading, 1)) and work()
            finally:
                os._exit(0 if done else 1)
        os.close(reading)

    def call(self) -> bool:
        """Have it done, and return whether it went well."""
        os.write(self._telling, b"!")
        os.close(self._telling)
        return os.waitpid(self._child, 0)[1] == 0


def lender(uid: int, gid: int) -> "Outpost | None":
    """Return who maps the caller to root and the ids lent to him to the others; None: none are."""
    firsts = [subordinate.first(path) for path in subordinate.FILES]
    programs = [found(name) for name in _PROGRAMS]
    if None in firsts or not all(programs):
        return None
    pid = os.getpid()

    def lend() -> bool:
        rows = zip(programs, (uid, gid), firsts)
        rest = subordinate.COUNT - 1
        return all(_run([program, pid, 0, own, 1, 1, start, rest]) for program, own, start in rows)

    return Outpost(lend)


def enter_whole(proc: int) -> None:
    """Enter a user namespace below this one, with all ids that this one has; stay root.

    proc: a descriptor of /proc/self.
    """
    # A range may not span two of the namespace above. user_namespaces(7).
    text = f"0 0 1\n1 1 {subordinate.COUNT - 1}\n".encode()

    def write() -> bool:
        for name in ("uid_map", "gid_map"):
            fd = os.open(name, os.O_WRONLY, dir_fd=proc)
            os.write(fd, text)
            os.close(fd)
        return True

    outpost = Outpost(write)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    if not outpost.call():
        raise RunError("Cannot map the ids of --fakeroot", why="The kernel refuses it.")


def has_range(proc: int) -> bool:
    """Whether this user namespace has ids that were lent: a second line in uid_map."""
    fd = os.open("uid_map", os.O_RDONLY, dir_fd=proc)
    with open(fd, "rb", buffering=0) as file:
        return (file.readall() or b"").count(b"\n") > 1


def _run(words: "list[str | int | None]") -> bool:
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in range(3)]
    command = [str(word) for word in words]
    child = os.posix_spawn(command[0], command, {}, file_actions=actions)
    return os.waitpid(child, 0)[1] == 0
