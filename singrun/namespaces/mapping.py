"""User namespaces with more ids than the caller's own, for --fakeroot.

More than one id of a user namespace must be mapped by a process in the parent namespace
(user_namespaces(7)), and newuidmap(1) is set-user-ID there alone. So a child is forked before
unshare(2), and writes the maps after it.
"""

import os

from singrun import subordinate, syscalls
from singrun.errors import RunError
from singrun.images.fuse import host_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PROGRAMS = ("newuidmap", "newgidmap")


class ForkedChild:
    """A child, forked before unshare(2), that does ``work`` in the namespace it was forked in."""

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
        """Have the child do its work; return whether that succeeded."""
        os.write(self._telling, b"!")
        os.close(self._telling)
        return os.waitpid(self._child, 0)[1] == 0


def id_mapper(uid: int, gid: int) -> "ForkedChild | None":
    """Fork a child that maps root to the caller, other ids to those lent to him; None: none are."""
    firsts = [subordinate.first(path) for path in subordinate.FILES]
    programs = [host_program(name) for name in _PROGRAMS]
    if None in firsts or not all(programs):
        return None
    pid = os.getpid()

    def map_ids() -> bool:
        rows = zip(programs, (uid, gid), firsts)
        rest = subordinate.COUNT - 1
        return all(_run([program, pid, 0, own, 1, 1, start, rest]) for program, own, start in rows)

    return ForkedChild(map_ids)


def enter_with_all_ids(proc: int) -> None:
    """Enter a new user namespace with all ids that this one has, as its root.

    proc: a descriptor of /proc/self.
    """
    # Two lines, as this namespace has two: a range must lie within one of the parent's ranges.
    text = f"0 0 1\n1 1 {subordinate.COUNT - 1}\n".encode()

    def write() -> bool:
        for name in ("uid_map", "gid_map"):
            fd = os.open(name, os.O_WRONLY, dir_fd=proc)
            os.write(fd, text)
            os.close(fd)
        return True

    child = ForkedChild(write)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    if not child.call():
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
