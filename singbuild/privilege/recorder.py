"""Records the owners that programs give, where the host has only one owner to give.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from singbuild.ext3.node import Owner
from singbuild.privilege import seccomp
from singbuild.privilege.seccomp import Question
from singrun import syscalls

Words = tuple[int, ...]  # the arguments of a system call

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

    journal: the file that gets the records; owners: whether owners are recorded too, and not
    only devices.

    ``install`` is called in that process, ``serve`` in another one. The thread of ``serve``
    changes root and current directory, which all threads of a process share: no other thread
    there may use them.
    """

    def __init__(self, journal: Path, *, owners: bool) -> None:
        self._file = journal.open("ab", buffering=0)
        self._ours, self._theirs = socket.socketpair()
        self._root = -1
        self._owners: dict[str, tuple[int, int]] = {}  # recorded, by inode
        self._supervised: Sequence[str] = (*CHOWNS, *NODES, *RENAMES) if owners else NODES
        self._ignored: Sequence[str] = IGNORED if owners else ()

    def install(self) -> None:
        """Put this process, and all that it forks, under the filter that asks for an answer."""
        listener = seccomp.install(self._supervised, self._ignored)
        socket.send_fds(self._theirs, [b"x"], [listener])
        os.close(listener)

    def descriptors(self) -> Sequence[int]:
        """Return the descriptors that ``serve`` needs."""
        return self._file.fileno(), self._ours.fileno()

    def serve(self) -> None:
        """Answer, in a thread that ends with this process."""
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        # A file made in the place of a device gets its program's umask, not ours: _mknod().
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
            # A program waits until it is answered, for ever: nothing may end this loop
            # without an answer.
            except Exception:
                traceback.print_exc()
                result = errno.EIO
            seccomp.answer(listener, question, result)

    def _answer(self, listener: int, question: Question) -> int | None:
        """Do in a call's place what can be done; return the result for ``seccomp.answer``."""
        if question.call in NODES:
            return self._mknod(listener, question)
        if question.call in RENAMES:
            with contextlib.suppress(OSError):  # the kernel executes the call, and fails with it
                self._rename(listener, question)
            return None
        return self._chown(listener, question)

    def _chown(self, listener: int, question: Question) -> int:
        """Record an owner for what the call names, and change none."""
        call = question.call.removesuffix("16")  # the i386 calls with 16-bit ids
        bits = 32 if call == question.call else 16
        at, path, uid, gid, flags = _CHOWNS[call](question.args)
        name = _text(question.pid, path) if path is not None else b""
        if not name and not flags & AT_EMPTY_PATH:
            return errno.ENOENT
        with _Place(self, question, at) as place:
            # Only now, after the path was read: had the process ended, its id could be another's,
            # and the path from that one's memory. seccomp_unotify(2), SECCOMP_IOCTL_NOTIF_ID_VALID.
            if not seccomp.is_waiting(listener, question):
                return errno.ESRCH
            last = os.O_NOFOLLOW if flags & AT_SYMLINK_NOFOLLOW else 0
            fd = place.open(name, os.O_PATH | last)
            try:
                seccomp.chown_nothing(fd)
                self._record(fd, _signed(uid, bits), _signed(gid, bits))
            finally:
                os.close(fd)
        return 0

    def _mknod(self, listener: int, question: Question) -> int | None:
        """Make an empty file in place of a device, and record the device."""
        at, path, mode, device = _MKNODS[question.call](question.args)
        if stat.S_IFMT(mode) not in (stat.S_IFCHR, stat.S_IFBLK):
            return None
        name = _text(question.pid, path)
        mask = int(_status(question.pid, "Umask"), 8)
        with _Place(self, question, at) as place:
            if not seccomp.is_waiting(listener, question):
                return errno.ESRCH
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
            fd = place.open(name, flags, mode & 0o7777 & ~mask)
            try:
                self._record(fd, SAME, SAME, f" {stat.S_IFMT(mode)} {device}")
            finally:
                os.close(fd)
        return 0

    def _rename(self, listener: int, question: Question) -> None:
        """Give a file that replaces another one the other's record, if it has root for owner."""
        old, new = _RENAMES[question.call](question.args)
        if question.call == "renameat2" and question.args[4] & RENAME_EXCHANGE:
            return
        replaced = self._owners.get(self._key_of(listener, question, *new), (0, 0))
        if all(owner in (0, SAME) for owner in replaced):
            return
        fd = self._open(listener, question, *old)
        try:
            ours = self._owners.get(_key(fd))
            if ours and all(owner in (0, SAME) for owner in ours):
                self._record(fd, *replaced)
        finally:
            os.close(fd)

    def _key_of(self, listener: int, question: Question, at: int, path: int) -> str:
        fd = self._open(listener, question, at, path)
        try:
            return _key(fd)
        finally:
            os.close(fd)

    def _open(self, listener: int, question: Question, at: int, path: int) -> int:
        """Open what a call names, a link itself. Raises OSError."""
        name = _text(question.pid, path)
        with _Place(self, question, at) as place:
            if not name or not seccomp.is_waiting(listener, question):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            return place.open(name, os.O_PATH | os.O_NOFOLLOW)

    def _record(self, fd: int, uid: int, gid: int, node: str = "") -> None:
        key = _key(fd)
        owner = self._owners.get(key, (SAME, SAME))
        self._owners[key] = (owner[0] if uid == SAME else uid, owner[1] if gid == SAME else gid)
        self._file.write(f"{key} {uid} {gid}{node}\n".encode())

    def change_root(self, root: int) -> None:
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

    def open(self, name: bytes, flags: int, mode: int = 0) -> int:
        """Open what a name stands for there; "" is the directory or file itself.

        Magic links of /proc are not followed: /proc/self would be this process's own.
        """
        if not name:
            return os.dup(self._start)
        resolve = syscalls.RESOLVE_NO_MAGICLINKS
        self._recorder.change_root(self._root)
        try:
            fd = syscalls.openat2(self._start, os.fsdecode(name), flags, resolve, mode)
        finally:
            self._recorder.change_root(self._recorder.root)
        if seccomp.kind_of(fd) == PROC_SUPER_MAGIC:
            os.close(fd)
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return fd


def _signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    # -1, "leave it as it is", is 0xFFFF in the calls with 16-bit ids: chown(2).
    return value - (1 << bits) if value >> (bits - 1) and (bits == 32 or value == 0xFFFF) else value


# What the calls name: a directory's descriptor, and the address of a path; see their man pages.
_CHOWNS: dict[str, Callable[[Words], tuple[int, int | None, int, int, int]]] = {
    "chown": lambda a: (AT_FDCWD, a[0], a[1], a[2], 0),
    "lchown": lambda a: (AT_FDCWD, a[0], a[1], a[2], AT_SYMLINK_NOFOLLOW),
    "fchown": lambda a: (_signed(a[0]), None, a[1], a[2], AT_EMPTY_PATH),
    "fchownat": lambda a: (_signed(a[0]), a[1], a[2], a[3], a[4]),
}
# mode_t and dev_t are narrower than a register, whose upper bits may be anything.
_MKNODS: dict[str, Callable[[Words], tuple[int, int, int, int]]] = {
    "mknod": lambda a: (AT_FDCWD, a[0], a[1] & 0xFFFF, a[2] & 0xFFFFFFFF),
    "mknodat": lambda a: (_signed(a[0]), a[1], a[2] & 0xFFFF, a[3] & 0xFFFFFFFF),
}
_RENAMES: dict[str, Callable[[Words], tuple[tuple[int, int], tuple[int, int]]]] = {
    "rename": lambda a: ((AT_FDCWD, a[0]), (AT_FDCWD, a[1])),
    "renameat": lambda a: ((_signed(a[0]), a[1]), (_signed(a[2]), a[3])),
    "renameat2": lambda a: ((_signed(a[0]), a[1]), (_signed(a[2]), a[3])),
}


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
    """Return an inode's handle, name_to_handle_at(2); where there is none, its number has to do."""
    try:
        return seccomp.handle(fd, name)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS):  # some containers
            raise
        return b"\0"


def owners(
    tree: Path, journal: Path, others: Mapping[bytes, Owner] = MappingProxyType({})
) -> dict[bytes, Owner]:
    """Return owners and devices that the journal has for a tree's entries, by path.

    others: what is recorded elsewhere, before programs saw root there. Another owner that one of
    them gives counts; root may be what it has read, and gives to the file that it writes anew.
    """
    records = _read(journal)
    numbers = {int(key.split()[0]) for key in records}
    recorded = dict(others)
    for path, name, status, directory in _walk(tree):
        if status.st_ino not in numbers:  # most: a handle would cost one more call for each
            continue
        record = records.get(f"{status.st_ino} {_handle(directory, name).hex()}")
        if record:
            before = others.get(path) or Owner(status.st_uid, status.st_gid)
            unsaid = (SAME, 0) if path in others else (SAME,)
            recorded[path] = Owner(
                before.uid if record.uid in unsaid else record.uid,
                before.gid if record.gid in unsaid else record.gid,
                record.kind | stat.S_IMODE(status.st_mode) if record.kind else before.mode,
                record.device if record.kind else before.device,
            )
    return recorded


def inodes(tree: Path, paths: Iterable[bytes]) -> dict[bytes, str]:
    """Return the inode of each path of a tree that is there, as the journal names it."""
    numbers = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            fd = os.open(os.fsencode(tree) + b"/" + path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                numbers[path] = _key(fd)
            finally:
                os.close(fd)
    return numbers


def without_group(tree: Path, owners: Mapping[bytes, Owner]) -> list[bytes]:
    """Return paths in set-group-id directories of a recorded group, which they may not have got."""
    setgid: set[bytes] = set()  # directories whose group the host did not hand down
    lacking: list[bytes] = []
    if not any(owner.gid for owner in owners.values()):
        return lacking
    for path, _, status, _ in _walk(tree):
        lacks = path.rpartition(b"/")[0] in setgid and path not in owners
        if lacks:
            lacking.append(path)
        differs = lacks or (path in owners and owners[path].gid != status.st_gid)
        if differs and stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISGID:
            setgid.add(path)
    return lacking


class _Record(NamedTuple):
    """What the journal says of one inode. kind: the type of a device, else 0."""

    uid: int = SAME
    gid: int = SAME
    kind: int = 0
    device: int = 0


def _read(journal: Path) -> dict[str, _Record]:
    """Return the record of every inode in the journal, whose later lines count."""
    records: dict[str, _Record] = {}
    for line in journal.read_text().splitlines():
        number, handle, *facts = line.split()
        uid, gid, *device = map(int, facts)
        earlier = records.get(f"{number} {handle}", _Record())
        records[f"{number} {handle}"] = _Record(
            earlier.uid if uid == SAME else uid & 0xFFFFFFFF,
            earlier.gid if gid == SAME else gid & 0xFFFFFFFF,
            *(device or earlier[2:]),
        )
    return records


def _walk(tree: Path) -> Iterator[tuple[bytes, bytes, os.stat_result, int]]:
    """Yield every entry of a tree: path, name, status, and its directory, open meanwhile."""
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
