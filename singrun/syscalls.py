"""One function per system call, under its man page's name. No policy lives here.

Every function takes plain types, returns what the call returns and raises
OSError(errno, text, path). The builder uses this module too. Calls younger
than glibc 2.34 go through syscall(2); their numbers are the same on every
architecture (Linux, include/uapi/asm-generic/unistd.h). What a man page calls
temporary is called again here, so that no caller has to.
"""

import _ctypes
import errno
import os
import sys

# mount(2), <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_MOVE, MS_REC = 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MS_NOATIME = 1024
MNT_DETACH = 2

# unshare(2), <linux/sched.h>
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

# open_tree(2), move_mount(2), mount_setattr(2), openat2(2)
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x8000, 0x100
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
STATX_MNT_ID, _STX_MNT_ID = 0x1000, 144 // 8  # statx(2), struct statx: its 64-bit word
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 2, 4, 8, 0x10
MAXSYMLINKS = 40  # that the kernel follows on one path: path_resolution(7)

# fsconfig(2), fsopen(2), fsmount(2)
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC = 1, 1

# socket(2), unix(7)
AF_UNIX, AF_INET, SOCK_STREAM, SOCK_DGRAM, SOCK_CLOEXEC = 1, 2, 1, 2, os.O_CLOEXEC
SOL_SOCKET = 1
SO_PEERCRED, SO_RCVTIMEO, SO_SNDTIMEO = 17, 20, 21
if os.uname().machine.startswith("ppc"):
    SO_PEERCRED, SO_RCVTIMEO, SO_SNDTIMEO = 21, 18, 19

# prctl(2), signal(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_KEEPCAPS = 23, 24, 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
SECCOMP_MODE_FILTER = 2
SIG_DFL, SIG_IGN = 0, 1

# capabilities(7), <linux/capability.h>
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL = 0, 1, 3, 4, 5
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_BIND_SERVICE = 6, 7, 8, 10
CAP_SYS_CHROOT, CAP_SYS_ADMIN, CAP_MKNOD, CAP_SETFCAP = 18, 21, 27, 31

# capget(2): _LINUX_CAPABILITY_VERSION_3, of the calling thread
_CAPABILITIES = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432
_SYS_OPENAT2, _SYS_MOUNT_SETATTR = 437, 442
_LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_RESTRICT_SELF = 444, 446


# ctypes itself spends 4 ms at import, a quarter of a launch, on a trampoline for callbacks, of
# which there are none here. These few lines of it are all we need; the letters are struct(3)'s.
class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _UInt(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "I"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _ULong(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "L"


class _Bytes(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "z"


class _U64(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "Q"


_Statx = _U64 * 32


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


class _Libc:
    # The C library that Python itself runs on. dlopen(3): no name means the whole program.
    _handle = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]


class _Declaration:
    """The C function ``name``: looked up at its first call, since few launches make all of them.

    syscall(2) is there several times, each with the types of one call.
    """

    def __init__(self, name: str, *argtypes: type) -> None:
        self._name, self._argtypes = name, argtypes
        self._function: _Function | None = None

    def function(self) -> _Function:
        """Return the function, with its types. dlsym(3)."""
        if self._function is None:
            self._function = _Function((self._name, _Libc))  # type: ignore[arg-type]
            self._function.argtypes = self._argtypes
            self._function.restype = _Long if self._name == "syscall" else _Int
        return self._function


def _u64(*values: int) -> bytes:
    """Return a structure of 64-bit numbers."""
    return b"".join(value.to_bytes(8, sys.byteorder) for value in values)


_unshare = _Declaration("unshare", _Int)
_setns = _Declaration("setns", _Int, _Int)
_mount = _Declaration("mount", _Bytes, _Bytes, _Bytes, _ULong, _Bytes)
_umount2 = _Declaration("umount2", _Bytes, _Int)
_pivot_root = _Declaration("pivot_root", _Bytes, _Bytes)
_syncfs = _Declaration("syncfs", _Int)
_prctl = _Declaration("prctl", _Int, _ULong, _ULong, _ULong, _ULong)
_capset = _Declaration("capset", _Bytes, _Bytes)
_signal = _Declaration("signal", _Int, _ULong)
_setfsuid = _Declaration("setfsuid", _Int)
_setfsgid = _Declaration("setfsgid", _Int)
_sethostname = _Declaration("sethostname", _Bytes, _ULong)
_socket = _Declaration("socket", _Int, _Int, _Int)
_bind = _Declaration("bind", _Int, _Bytes, _UInt)
_connect = _Declaration("connect", _Int, _Bytes, _UInt)
_listen = _Declaration("listen", _Int, _Int)
_accept4 = _Declaration("accept4", _Int, _Bytes, _Bytes, _Int)
_setsockopt = _Declaration("setsockopt", _Int, _Int, _Int, _Bytes, _UInt)
_open_tree = _Declaration("syscall", _Long, _Int, _Bytes, _UInt)
_move_mount = _Declaration("syscall", _Long, _Int, _Bytes, _Int, _Bytes, _UInt)
_fsopen = _Declaration("syscall", _Long, _Bytes, _UInt)
_fsconfig = _Declaration("syscall", _Long, _Int, _UInt, _Bytes, _Bytes, _Int)
_fsmount = _Declaration("syscall", _Long, _Int, _UInt, _UInt)
_openat2 = _Declaration("syscall", _Long, _Int, _Bytes, _Bytes, _ULong)
_mount_setattr = _Declaration("syscall", _Long, _Int, _Bytes, _UInt, _Bytes, _ULong)
_create_ruleset = _Declaration("syscall", _Long, _Bytes, _ULong, _UInt)
_restrict_self = _Declaration("syscall", _Long, _Int, _UInt)
_statx = _Declaration("statx", _Int, _Bytes, _Int, _UInt, _Statx)


# EAGAIN: something was renamed or mounted anywhere on the host while ``..`` was resolved,
# openat2(2). While one process did nothing but rename, 2 calls in 1,000 ended so; 16 launches at
# once, which all mount, made 10 of them fail.
_OPENAT2_ATTEMPTS = 10_000


def _call(declaration: _Declaration, *words: object, path: "str | None" = None) -> int:
    """Call a function, again when a signal interrupts it, as Python's own calls do (PEP 475)."""
    result: int
    function = declaration.function()
    while (result := function(*words)) < 0:
        number = _ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), path)
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` (CLONE_NEW…) for new ones (man 2)."""
    _call(_unshare, flags)


def setns(fd: int, nstype: int) -> None:
    """Join the namespace that ``fd`` refers to (man 2)."""
    _call(_setns, fd, nstype)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount ``source`` on ``target`` (man 2)."""
    words = (os.fsencode(source), os.fsencode(target), os.fsencode(fstype))
    _call(_mount, *words, flags, os.fsencode(data), path=target)


def umount2(target: str, flags: int = 0) -> None:
    """Unmount ``target`` (man 2)."""
    _call(_umount2, os.fsencode(target), flags, path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` the root of this mount namespace (man 2)."""
    _call(_pivot_root, os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def syncfs(fd: int) -> None:
    """Write back the file system that ``fd`` is in; EIO, ENOSPC: a write failed (man 2)."""
    _call(_syncfs, fd)


def prctl(option: int, value: int = 0, more: int = 0) -> int:
    """Change one property of this process (man 2)."""
    return _call(_prctl, option, value, more, 0, 0)


def capget() -> list[int]:
    """Return the effective, permitted and inheritable capabilities, as bits (man 2)."""
    words = (_UInt * 6)()  # to make such a type takes 0.02 ms: only here
    _call(_Declaration("capget", _Bytes, type(words)), _CAPABILITIES, words)
    return [words[number] | words[number + 3] << 32 for number in range(3)]


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capabilities that this process has, and may hand on (man 2)."""
    sets = (effective, permitted, inheritable)
    halves = [each & 0xFFFFFFFF for each in sets] + [each >> 32 for each in sets]
    _call(_capset, _CAPABILITIES, b"".join(half.to_bytes(4, sys.byteorder) for half in halves))


def seccomp_filter(program: bytes) -> None:
    """Let ``program``, of struct sock_filter, decide on every call from here on. seccomp(2)."""
    lines = (_UInt * (len(program) // 4)).from_buffer_copy(program)
    length = (len(program) // 8).to_bytes(2, sys.byteorder)
    place = _ctypes.addressof(lines).to_bytes(_ctypes.sizeof(_Long), sys.byteorder)
    fprog = length + bytes(len(place) - len(length)) + place  # struct sock_fprog
    data = (_UInt * (len(fprog) // 4)).from_buffer_copy(fprog)
    words = (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, _ctypes.addressof(data))
    _call(_prctl, *words, 0, 0)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Open the mount at ``path``, with OPEN_TREE_CLONE a detached copy of it (man 2)."""
    return _call(_open_tree, _SYS_OPEN_TREE, dirfd, os.fsencode(path), flags, path=path)


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """Attach or move a mount (man 2)."""
    words = (from_fd, os.fsencode(from_path), to_fd, os.fsencode(to_path))
    _call(_move_mount, _SYS_MOVE_MOUNT, *words, flags, path=to_path or from_path)


def mount_setattr(dirfd: int, path: str, flags: int, *, attr_set: int, attr_clr: int = 0) -> None:
    """Set and clear attributes (MOUNT_ATTR_…) of a mount (man 2)."""
    attr = _u64(attr_set, attr_clr, 0, 0)  # struct mount_attr
    args = (dirfd, os.fsencode(path), flags, attr, len(attr))
    _call(_mount_setattr, _SYS_MOUNT_SETATTR, *args, path=path)


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below ``dirfd`` as ``resolve`` (RESOLVE_…) allows (man 2)."""
    how = _u64(flags | os.O_CLOEXEC, mode, resolve)  # struct open_how
    args = (_SYS_OPENAT2, dirfd, os.fsencode(path), how, len(how))
    for _ in range(_OPENAT2_ATTEMPTS):
        try:
            return _call(_openat2, *args, path=path)
        except BlockingIOError:  # EAGAIN
            os.sched_yield()
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def mount_id(fd: int) -> int:
    """Return the id of the mount that ``fd`` is in: statx(2), stx_mnt_id, Linux 5.8."""
    status = _Statx()
    _call(_statx, fd, b"", AT_EMPTY_PATH, STATX_MNT_ID, status)
    return int(status[_STX_MNT_ID])


def fsopen(fstype: str) -> int:
    """Return a context for a new file system of the type ``fstype`` (man 2)."""
    return _call(_fsopen, _SYS_FSOPEN, fstype.encode(), FSOPEN_CLOEXEC, path=fstype)


def fsconfig(fd: int, command: int, key: "str | None", value: "str | None") -> None:
    """Set an option of the context ``fd``, or create its file system (man 2)."""
    words = (key and key.encode(), value and value.encode())
    _call(_fsconfig, _SYS_FSCONFIG, fd, command, *words, 0, path=key)


def fsmount(fd: int, attributes: int) -> int:
    """Return a descriptor of an unattached mount of the context ``fd`` (man 2)."""
    return _call(_fsmount, _SYS_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)


def scope_abstract_sockets() -> None:
    """Refuse this process the abstract sockets (unix(7)) of those outside: landlock(7), scopes.

    Raises OSError: before Linux 6.12, or where Landlock is switched off, it cannot be had.
    """
    ruleset = _u64(0, 0, _LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)  # struct landlock_ruleset_attr
    fd = _call(_create_ruleset, _SYS_LANDLOCK_CREATE_RULESET, ruleset, len(ruleset), 0)
    try:
        _call(_restrict_self, _SYS_LANDLOCK_RESTRICT_SELF, fd, 0)
    finally:
        os.close(fd)


def signal_default(number: int) -> None:
    """Give signal ``number`` its default disposition. signal(2) with SIG_DFL."""
    _signal.function()(number, SIG_DFL)


def signal_ignore(number: int) -> None:
    """Ignore signal ``number``, also where it is blocked and waits. signal(2) with SIG_IGN."""
    _signal.function()(number, SIG_IGN)


def setfsuid(uid: int) -> int:
    """Access files as user ``uid``; root has all rights to files again with 0 (man 2).

    Return the user before.
    """
    return int(_setfsuid.function()(uid))


def setfsgid(gid: int) -> None:
    """Access files as group ``gid`` (man 2)."""
    _setfsgid.function()(gid)


def sethostname(name: str) -> None:
    """Name the host of this UTS namespace (man 2)."""
    data = os.fsencode(name)
    _call(_sethostname, data, len(data))


def socket(family: int = AF_UNIX, kind: int = SOCK_STREAM) -> int:
    """Return a new socket (man 2, unix(7), ip(7))."""
    return _call(_socket, family, kind | SOCK_CLOEXEC, 0)


def bind(fd: int, path: str) -> None:
    """Make the socket file ``path`` for ``fd``; EADDRINUSE: there is such a file (man 2)."""
    address = _address(path)
    _call(_bind, fd, address, len(address), path=path)


def connect(fd: int, path: str) -> None:
    """Connect ``fd`` to whoever listens at ``path``; ECONNREFUSED: nobody does (man 2)."""
    address = _address(path)
    _call(_connect, fd, address, len(address), path=path)


def set_timeouts(fd: int, seconds: float) -> None:
    """Let connect(2) and read(2) fail with EAGAIN after so long. socket(7), SO_RCVTIMEO."""
    long = _ctypes.sizeof(_Long)
    words = (int(seconds), int(seconds % 1 * 1_000_000))  # struct timeval
    value = b"".join(word.to_bytes(long, sys.byteorder) for word in words)
    for option in (SO_RCVTIMEO, SO_SNDTIMEO):
        _call(_setsockopt, fd, SOL_SOCKET, option, value, len(value))


def listen(fd: int, backlog: int) -> None:
    """Let others connect to ``fd`` (man 2)."""
    _call(_listen, fd, backlog)


def accept(fd: int) -> int:
    """Return the next connection to ``fd`` (man 2)."""
    return _call(_accept4, fd, None, None, SOCK_CLOEXEC)


def peer(fd: int) -> tuple[int, int]:
    """Return pid and uid of the listener at the other end of ``fd``. unix(7), SO_PEERCRED."""
    ucred, size = (_UInt * 3)(), (_UInt * 1)(3 * 4)  # pid, uid, gid; bytes
    getsockopt = _Declaration("getsockopt", _Int, _Int, _Int, type(ucred), type(size))
    _call(getsockopt, fd, SOL_SOCKET, SO_PEERCRED, ucred, size)
    return ucred[0], ucred[1]


def _address(path: str) -> bytes:
    """Return a struct sockaddr_un."""
    return AF_UNIX.to_bytes(2, sys.byteorder) + os.fsencode(path) + b"\0"
