"""The system calls of a launch, noted as the runtime makes them, in the letters of form.py.

What may change something and has no letter ends the recording: such a launch stays Python's.
"""

import builtins
import fcntl
import os

from singrun import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from singrun.recordings import form

_AT_FDCWD = -100
_LETTERS = {
    os: [
        *("open", "close", "write", "mkdir", "symlink", "chdir", "utime"),
        *("pipe", "posix_fadvise", "posix_spawn", "waitpid"),
    ],
    fcntl: ["flock"],
    syscalls: [
        *("unshare", "mount", "umount2", "pivot_root", "prctl", "open_tree", "move_mount"),
        *("mount_setattr", "openat2", "fsopen", "fsconfig", "fsmount"),
    ],
}

# Calls that only look, or that player.c makes for itself; any other function has no letter.
_LOOKS = {
    os: {
        *("access", "fspath", "fstat", "fstatvfs", "get_inheritable", "getcwd", "getcwdb"),
        *("getegid", "geteuid", "getgid", "getgroups", "getpid", "getppid", "getresgid"),
        *("getresuid", "getuid", "isatty", "listdir", "lseek", "lstat", "major", "minor"),
        *("pread", "read", "readlink", "scandir", "sched_yield", "set_inheritable", "stat"),
        *("statvfs", "strerror"),
        *("sysconf", "umask", "uname"),
    },
    fcntl: set(),
    syscalls: {"capget", "mount_id", "signal_default", "signal_ignore"},
}


_open_tree = syscalls.open_tree  # for calls of our own, which are not noted


def functions(module: "Any") -> "set[str]":
    """Return the names of a module's functions that call the kernel: those of os in C."""
    kind = type(functions) if module is syscalls else type(os.stat)
    return {name for name, each in vars(module).items() if name[0] != "_" and type(each) is kind}


class Calls:
    """Notes calls until stop(). records: those so far. is_whole: each had a letter.

    looks: (path, flags) of what was opened in the image's root, whether or not it was there.
    fuse: the program that may be executed, "" for none; files: the tree that it serves, without
    what is mounted on it.
    """

    def __init__(self, fuse: str = "") -> None:
        self.files = -1
        self._fuse = fuse
        self._pipes: "set[int]" = set()  # noqa: UP037  player.c reads no output of the FUSE program
        self.records: "list[form.Record]" = []  # noqa: UP037  3.9
        self.looks: "dict[tuple[str, int], None]" = {}  # noqa: UP037
        self.is_whole = True
        self._registers: "dict[int, int]" = {}  # noqa: UP037  of descriptors that are open
        self._count = 0
        self._places: "set[str]" = set()  # noqa: UP037  that were made below /proc/self
        self._before: "list[tuple[Any, str, Any]]" = []  # noqa: UP037
        for module, names in _LETTERS.items():
            for name in names:
                self._stand_in(module, name, getattr(self, f"_{name}"))
        for module, looks in _LOOKS.items():
            for name in functions(module) - looks - {*_LETTERS[module]}:
                self._stand_in(module, name, self._no_letter)
        self._stand_in(builtins, "open", self._file)

    def stop(self) -> None:
        """Note nothing more."""
        for module, name, function in self._before:
            setattr(module, name, function)
        self._before = []

    def forget_descriptors(self) -> None:
        """Take what is done with a descriptor of before for a call without a letter."""
        self._registers.clear()

    def _stand_in(self, module: "Any", name: str, note: "Callable[..., None]") -> None:
        function = getattr(module, name)

        def call(*words: "Any", **more: "Any") -> "Any":
            if name == "openat2":
                self.looks[words[1], words[2]] = None
            result = function(*words, **more)
            try:
                note(result, *words, **more)
            except (KeyError, TypeError, ValueError, OSError):  # a form without a letter
                self.is_whole = False
            return result

        self._before.append((module, name, function))
        setattr(module, name, call)

    def _file(self, _result: object, _path: object, mode: str = "r", **_more: object) -> None:
        self.is_whole &= {*mode} <= {*"rbt"}

    def _no_letter(self, *_words: object, **_more: object) -> None:
        self.is_whole = False

    def _add(self, letter: str, *fields: "str | bytes | int") -> None:
        self.records.append((letter, *fields))

    def _register(self, fd: int) -> int:
        self._registers[fd] = self._count
        self._pipes.discard(fd)  # it was closed in another way
        self._count += 1
        return self._registers[fd]

    def _where(self, fd: "int | None") -> "int | str":
        return "-" if fd is None or fd == _AT_FDCWD else self._registers[fd]

    def _path(self, path: str) -> str:
        r"""Return a path with \1 and \2; KeyError for a descriptor that is not known."""
        if "\1" in path or "\2" in path:
            raise ValueError(path)
        own = f"/proc/{os.readlink('/proc/self')}/"
        if path.startswith(own):
            return f"/proc/\1/{path[len(own) :]}"
        for descriptors in ("/proc/self/fd/", "/dev/fd/"):
            if path.startswith(descriptors):
                number, slash, rest = path[len(descriptors) :].partition("/")
                return f"{descriptors}\2{self._registers[int(number)]}\2{slash}{rest}"
        return path

    def _open(
        self, fd: int, path: str, flags: int, mode: int = 0o777, *, dir_fd: "int | None" = None
    ) -> None:
        fields = (self._where(dir_fd), self._path(path), flags | os.O_CLOEXEC, mode)
        self._add("O", self._register(fd), *fields)

    def _openat2(self, fd: int, dirfd: int, path: str, flags: int, resolve: int) -> None:
        self._add("R", self._register(fd), self._where(dirfd), path, flags, resolve)

    def _open_tree(self, fd: int, dirfd: int, path: str, flags: int) -> None:
        where = self._where(dirfd)
        self._add("T", self._register(fd), where, self._path(path), flags)

    def _fsopen(self, fd: int, fstype: str) -> None:
        self._add("N", self._register(fd), fstype)

    def _fsconfig(
        self, _result: None, fd: int, command: int, key: "str | None", value: "str | None"
    ) -> None:
        text = self._path(value or "")
        if key == "fd":
            text = f"\2{self._registers[int(text)]}\2"
        self._add("G", self._registers[fd], command, key or "", text)

    def _fsmount(self, tree: int, fd: int, attributes: int) -> None:
        self._add("E", self._register(tree), self._registers[fd], attributes)

    def _posix_fadvise(self, _result: None, fd: int, at: int, length: int, advice: int) -> None:
        self._add("I", self._registers[fd], at, length, advice)

    def _pipe(self, ends: "tuple[int, int]") -> None:
        self._pipes |= {*ends}

    def _posix_spawn(
        self,
        _child: int,
        path: str,
        words: "list[str]",
        environment: "dict[str, str]",
        **_more: object,
    ) -> None:
        if path != self._fuse:
            raise ValueError(path)
        for word in words:
            self._add("B", self._path(word))
        for name, value in environment.items():
            self._add("Z", f"{name}={value}")
        devices = [word[len("/dev/fd/") :] for word in words if word.startswith("/dev/fd/")]
        self._add("S", self._path(path), self._registers[int(devices[0])] if devices else "-")

    def _waitpid(self, _result: "tuple[int, int]", _child: int, _options: int) -> None:
        self._add("J")

    def _close(self, _result: None, fd: int) -> None:
        if fd in self._pipes:
            self._pipes.discard(fd)
            return
        self._add("C", self._registers.pop(fd))

    def _write(self, _result: int, fd: int, data: bytes) -> None:
        self._add("W", self._registers[fd], data)  # KeyError for a message on standard error

    def _mkdir(
        self, _result: None, path: str, mode: int = 0o777, *, dir_fd: "int | None" = None
    ) -> None:
        self._add("D", self._where(dir_fd), self._path(path), mode)

    def _symlink(self, _result: None, text: str, path: str, *, dir_fd: "int | None" = None) -> None:
        self._add("L", text, self._where(dir_fd), self._path(path))

    def _chdir(self, _result: None, path: "str | int") -> None:
        if isinstance(path, int):
            self._add("F", self._registers[path])
        else:
            self._add("H", self._path(path))

    def _utime(self, _result: None, fd: int) -> None:
        self._add("Y", self._registers[fd])

    def _flock(self, _result: None, fd: int, operation: int) -> None:
        self._add("K", self._registers[fd], operation)

    def _unshare(self, _result: None, flags: int) -> None:
        self._add("U", flags)

    def _mount(
        self, _result: None, source: str, target: str, fstype: str, flags: int = 0, data: str = ""
    ) -> None:
        self._add("Q", self._path(source), self._path(target), fstype, flags, data)

    def _umount2(self, _result: None, target: str, flags: int = 0) -> None:
        self._add("u", self._path(target), flags)

    def _pivot_root(self, _result: None, new_root: str, put_old: str) -> None:
        self._add("V", new_root, put_old)

    def _prctl(self, _result: int, option: int, value: int = 0, more: int = 0) -> None:
        self._add("P", option, value, more)

    def _move_mount(
        self, _result: None, from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int
    ) -> None:
        if from_path:
            raise ValueError(from_path)
        self._add("M", self._registers[from_fd], self._where(to_fd), self._path(to_path), flags)
        if self._fuse and self.files < 0:  # the first that is mounted is the image
            clone = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
            self.files = _open_tree(to_fd, to_path, clone)

    def _mount_setattr(
        self, _result: None, dirfd: int, path: str, flags: int, *, attr_set: int, attr_clr: int = 0
    ) -> None:
        if path or attr_clr:
            raise ValueError(path)
        self._add("A", self._registers[dirfd], flags, attr_set)
