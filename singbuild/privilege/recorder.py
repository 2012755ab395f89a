"""Remembers the owners that programs give, where the host has only one owner to give.

    program ── chown(2) ──▶ kernel ── question ──▶ recorder (in init) ── note ──▶ journal
                                                      └── "it is done" ──▶ program

The journal names inodes and not paths, so a file keeps its owner when it is renamed, and a
new file in its place has none. What stat(2) says to programs stays as it is: root's. So a program
that writes a file anew (useradd, sed -i) gives the new one root, as the old one seemed to have,
and renames it over the old one: then it gets the old one's record.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from singbuild.ext3.node import Owner
from singbuild.privilege import seccomp
from singbuild.privilege.seccomp import Question
from singrun import syscalls

CHOWNS = ("chown", "fchown", "lchown", "fchownat")
NODES = ("mknod", "mknodat")
RENAMES = ("rename", "renameat", "renameat2")
RENAME_EXCHANGE = 2
IGNORED = ("setuid", "setgid", "setreuid", "setregid", "setgroups", "setresuid", "setresgid",
           "setfsuid", "setfsgid", "capset")  # fmt: skip
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x1000
PATH_MAX = 4096
PROC_SUPER_MAGIC = 0x9FA0  # <linux/magic.h>
SAME = -1  # an owner that is left as it was


class Recorder:
    """Answers the calls of one process and its children.

    journal: where it writes what they asked for; owners: whether owners are asked for in vain
    too, and not only devices.

    ``listened`` is called in that process, ``serve`` in another one. The thread of ``serve``
    changes root and current directory, which all threads of a process share: no other thread
    there may use them.
    """

    def __init__(self, journal: Path, *, owners: bool) -> None:
        self._file = journal.open("ab", buffering=0)
        self._ours, self._theirs = socket.socketpair()
        self._root = -1
        self._owners: dict[str, tuple[int, int]] = {}  # what was noted, by inode
        self._asked: Sequence[str] = (*CHOWNS, *NODES, *RENAMES) if owners else NODES
        self._ignored: Sequence[str] = IGNORED if owners else ()

    def listened(self) -> None:
        """Have the calls of this process, and of all that it forks, answered."""
        listener = seccomp.install(self._asked, self._ignored)
        socket.send_fds(self._theirs, [b"x"], [listener])
        os.close(listener)

    def descriptors(self) -> Sequence[int]:
        """Return those that ``serve`` needs."""
        return self._file.fileno(), self._ours.fileno()

    def serve(self) -> None:
        """Answer, in a thread that ends with this process."""
        threading.Thread(target=self._served, daemon=True).start()

    def _served(self) -> None:
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        os.umask(0)
        listener = socket.recv_fds(self._ours, 1, 1)[1][0]
        while True:
            question = seccomp.receive(listener)
            if question is None:
                continue
            try:
                result = self._answer(listener, question)
            except OSError as error:
                result = error.errno or errno.EIO
            except Exception:
                traceback.print_exc()
                result = errno.EIO
            seccomp.answer(listener, question, result)

    def _answer(self, listener: int, question: Question) -> int | None:
        """Do what a call asks for, as far as it goes; return as ``seccomp.answer`` takes it."""
        call, args = question.call, question.args
        if call in NODES:
            at, (path, mode, device) = _at(call == "mknodat", args, 3)
            if stat.S_IFMT(mode) not in (stat.S_IFCHR, stat.S_IFBLK):
                return None
            return self._node(listener, question, at, path, mode & 0xFFFF, device & 0xFFFFFFFF)
        if call in RENAMES:
            with contextlib.suppress(OSError):  # which the kernel will say itself
                self._renamed(listener, question)
            return None
        at, (path, uid, gid) = _at(call == "fchownat", args, 3)
        flags = args[4] if call == "fchownat" else 0
        if call.removesuffix("16") == "lchown":
            flags = AT_SYMLINK_NOFOLLOW
        own = call.startswith("fchown") and call != "fchownat"
        name = b"" if own else _text(question.pid, path)
        if own:
            at = _signed(path)
        elif not name and not flags & AT_EMPTY_PATH:
            return errno.ENOENT
        bits = 16 if call.endswith("16") else 32
        with _Place(self, question, at) as place:
            if not seccomp.is_waiting(listener, question):
                return errno.ESRCH
            last = os.O_NOFOLLOW if flags & AT_SYMLINK_NOFOLLOW else 0
            fd = place.opened(name, os.O_PATH | last)
            try:
                seccomp.chown_nothing(fd)
                self._note(fd, _signed(uid, bits), _signed(gid, bits))
            finally:
                os.close(fd)
        return 0

    def _node(
        self, listener: int, question: Question, at: int, path: int, mode: int, device: int
    ) -> int:
        """Make an empty file in a device's place, and note what it stands for."""
        name = _text(question.pid, path)
        mask = int(_status(question.pid, "Umask"), 8)
        with _Place(self, question, at) as place:
            if not seccomp.is_waiting(listener, question):
                return errno.ESRCH
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
            fd = place.opened(name, flags, mode & 0o7777 & ~mask)
            try:
                self._note(fd, SAME, SAME, f" {stat.S_IFMT(mode)} {device}")
            finally:
                os.close(fd)
        return 0

    def _renamed(self, listener: int, question: Question) -> None:
        """Let a file that a program made after another one's likeness have that one's owner."""
        args = question.args
        if question.call == "rename":
            old, new = (AT_FDCWD, args[0]), (AT_FDCWD, args[1])
        else:
            old, new = (_signed(args[0]), args[1]), (_signed(args[2]), args[3])
            if question.call == "renameat2" and args[4] & RENAME_EXCHANGE:
                return
        replaced = self._owners.get(self._key_of(listener, question, *new), (0, 0))
        if all(owner in (0, SAME) for owner in replaced):
            return
        fd = self._opened(listener, question, *old)
        try:
            made = self._owners.get(_key(fd))
            if made and all(owner in (0, SAME) for owner in made):
                self._note(fd, *replaced)
        finally:
            os.close(fd)

    def _key_of(self, listener: int, question: Question, at: int, path: int) -> str:
        fd = self._opened(listener, question, at, path)
        try:
            return _key(fd)
        finally:
            os.close(fd)

    def _opened(self, listener: int, question: Question, at: int, path: int) -> int:
        """Open what a call names, a link itself. Raises OSError."""
        name = _text(question.pid, path)
        with _Place(self, question, at) as place:
            if not name or not seccomp.is_waiting(listener, question):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            return place.opened(name, os.O_PATH | os.O_NOFOLLOW)

    def _note(self, fd: int, uid: int, gid: int, node: str = "") -> None:
        key = _key(fd)
        known = self._owners.get(key, (SAME, SAME))
        self._owners[key] = (known[0] if uid == SAME else uid, known[1] if gid == SAME else gid)
        self._file.write(f"{key} {uid} {gid}{node}\n".encode())

    def into(self, root: int) -> None:
        """chroot(2) into the directory that ``root`` is open on; back with ``self.root``."""
        os.fchdir(root)
        os.chroot(".")

    @property
    def root(self) -> int:
        """The root directory that is our own."""
        return self._root


class _Place:
    """Where a thread resolves its paths: its root, and a directory of its own."""

    def __init__(self, recorder: Recorder, question: Question, at: int) -> None:
        self._recorder = recorder
        home = f"/proc/{question.pid}"
        self._root = os.open(f"{home}/root", os.O_PATH)
        where = "cwd" if at == AT_FDCWD else f"fd/{at}"
        try:
            self._start = os.open(f"{home}/{where}", os.O_PATH)
        except OSError as error:
            os.close(self._root)
            if error.errno != errno.ENOENT:
                raise
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)
        os.close(self._start)

    def opened(self, name: bytes, flags: int, mode: int = 0) -> int:
        """Open what a name stands for there; "" is the directory or file itself.

        What /proc/self and its kin stand for is not followed: there they would be our own.
        """
        if not name:
            return os.dup(self._start)
        resolve = syscalls.RESOLVE_NO_MAGICLINKS
        self._recorder.into(self._root)
        try:
            fd = syscalls.openat2(self._start, os.fsdecode(name), flags, resolve, mode)
        finally:
            self._recorder.into(self._recorder.root)
        if seccomp.kind_of(fd) == PROC_SUPER_MAGIC:
            os.close(fd)
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return fd


def _at(given: bool, args: tuple[int, ...], count: int) -> tuple[int, tuple[int, ...]]:
    """Part a call's arguments into the directory and ``count`` more."""
    return (_signed(args[0]), args[1 : 1 + count]) if given else (AT_FDCWD, args[:count])


def _signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) and (bits == 32 or value == 0xFFFF) else value


def _text(pid: int, address: int) -> bytes:
    """Read a path from a process's memory: proc(5). Raises OSError."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text, end, _ = os.pread(fd, PATH_MAX, address).partition(b"\0")
    finally:
        os.close(fd)
    if not end:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return text


def _status(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text(errors="replace")  # a program's name is any bytes
    return text.partition(f"\n{name}:\t")[2].split()[0]


def _key(fd: int) -> str:
    return f"{os.fstat(fd).st_ino} {_handle(fd, b'').hex()}"


def _handle(fd: int, name: bytes) -> bytes:
    """An inode's handle; where the file system has none, its number has to do."""
    try:
        return seccomp.handle(fd, name)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS):  # some containers
            raise
        return b"\0"


def owners(tree: Path, journal: Path) -> dict[bytes, Owner]:
    """Return what the journal says of a tree's entries, by path, for the seal."""
    noted = _noted(journal)
    numbers = {int(key.split()[0]) for key in noted}
    found = {}
    for path, name, status, directory in _walk(tree):
        if status.st_ino not in numbers:
            continue
        key = f"{status.st_ino} {_handle(directory, name).hex()}"
        if key in noted:
            uid, gid, kind, device = noted[key]
            found[path] = Owner(
                status.st_uid if uid == SAME else uid,
                status.st_gid if gid == SAME else gid,
                kind | stat.S_IMODE(status.st_mode) if kind else 0,
                device,
            )
    return found


def without_group(tree: Path, owners: Mapping[bytes, Owner]) -> list[bytes]:
    """Return paths in set-group-id directories of a recorded group, which they may not have got."""
    giving: set[bytes] = set()
    found: list[bytes] = []
    if not any(owner.gid for owner in owners.values()):
        return found
    for path, _, status, _ in _walk(tree):
        lacks = path.rpartition(b"/")[0] in giving and path not in owners
        if lacks:
            found.append(path)
        gives = lacks or (path in owners and owners[path].gid != status.st_gid)
        if gives and stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISGID:
            giving.add(path)
    return found


def _noted(journal: Path) -> dict[str, list[int]]:
    """Return owner, group, type and device number of every inode in the journal."""
    noted: dict[str, list[int]] = {}
    for line in journal.read_text().splitlines():
        number, handle, *facts = line.split()
        uid, gid, *device = map(int, facts)
        known = noted.setdefault(f"{number} {handle}", [SAME, SAME, 0, 0])
        known[0] = known[0] if uid == SAME else uid & 0xFFFFFFFF
        known[1] = known[1] if gid == SAME else gid & 0xFFFFFFFF
        known[2:] = device or known[2:]
    return noted


def _walk(tree: Path) -> Iterator[tuple[bytes, bytes, os.stat_result, int]]:
    """Every entry of a tree: path, name, status, and its directory, open meanwhile."""
    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    yield b"", b".", os.fstat(top), top
    os.close(top)
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        fd = os.open(os.fsencode(tree) + b"/" + above, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for text in os.listdir(fd):  # noqa: PTH208 - by descriptor
                name = os.fsencode(text)
                path = above + b"/" + name if above else name
                status = os.lstat(name, dir_fd=fd)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
                yield path, name, status, fd
        finally:
            os.close(fd)
