"""A seccomp(2) filter whose system calls a supervisor answers: seccomp_unotify(2).

The filter says which calls succeed without effect and of which the kernel notifies the holder of
the listener, whose answer they return. It sees the calls themselves, so it holds for static
programs and any C library. Which calls those are is for others to say.

Not pyseccomp, which knows more architectures: it loads the host's libseccomp, and a build as an
ordinary user would need one more package.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# <linux/audit.h>, <linux/seccomp.h>, <linux/filter.h>
_X86_64, _I386, _AARCH64, _ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
_X32 = 0x40000000
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_ALLOW, _ERRNO, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
_LOAD, _EQUAL, _NOT_LESS, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCH_AT = 0, 4  # in struct seccomp_data

_RECV, _SEND, _VALID = 0xC0502100, 0xC0182101, 0x40082102
_QUESTION = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1

_64 = {
    "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "mknod": 133, "mknodat": 259,
    "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116,
    "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123, "capset": 126,
    "rename": 82, "renameat": 264, "renameat2": 316,
}  # fmt: skip
_GENERIC = {
    "fchown": 55, "fchownat": 54, "mknodat": 33,
    "setuid": 146, "setgid": 144, "setreuid": 145, "setregid": 143, "setgroups": 159,
    "setresuid": 147, "setresgid": 149, "setfsuid": 151, "setfsgid": 152, "capset": 91,
    "renameat": 38, "renameat2": 276,
}  # fmt: skip
# Of the 32-bit machines: first the calls with 16-bit ids, under names of our own.
_32 = {
    "lchown16": 16, "chown16": 182, "fchown16": 95, "setuid16": 23, "setgid16": 46,
    "setreuid16": 70, "setregid16": 71, "setgroups16": 81, "setresuid16": 164,
    "setresgid16": 170, "setfsuid16": 138, "setfsgid16": 139,
    "lchown": 198, "fchown": 207, "chown": 212, "mknod": 14, "capset": 185,
    "setreuid": 203, "setregid": 204, "setgroups": 206, "setresuid": 208, "setresgid": 210,
    "setuid": 213, "setgid": 214, "setfsuid": 215, "setfsgid": 216, "rename": 38,
}  # fmt: skip
CALLS: Mapping[int, Mapping[str, int]] = {
    _X86_64: _64,
    _I386: _32 | {"fchownat": 298, "mknodat": 297, "renameat": 302, "renameat2": 353},
    _AARCH64: _GENERIC,
    _ARM: _32 | {"fchownat": 325, "mknodat": 324, "renameat": 329, "renameat2": 382},
}
# The machine, its own and its other ABI, and the number of seccomp(2).
_MACHINES = {"x86_64": ((_X86_64, _I386), 317), "aarch64": ((_AARCH64, _ARM), 277)}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Question:
    """A call that waits for an answer. pid: of the thread; call: its name; args: six numbers."""

    key: int
    pid: int
    call: str
    args: tuple[int, ...]


def is_known() -> bool:
    """Whether the kernel asks, and the numbers of this machine's system calls are known here."""
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    asks = actions.exists() and "user_notif" in actions.read_text().split()
    return asks and os.uname().machine in _MACHINES


def install(notify: Sequence[str], ignored: Sequence[str]) -> int:
    """Filter all calls of this process and those it will fork; return the listener.

    notify, ignored: names of calls; the ignored ones succeed without effect. The process
    needs CAP_SYS_ADMIN in its user namespace. Raises OSError.
    """
    archs, number = _MACHINES[os.uname().machine]
    program = _program(archs, notify, ignored)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, padded, and a pointer
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    # Else a signal ends a call that is being answered, and the program repeats it, perhaps for
    # ever: Linux, Documentation/userspace-api/seccomp_filter.rst, WAIT_KILLABLE_RECV.
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):  # the second before Linux 5.19
        listener = _libc.syscall(
            ctypes.c_long(number), _SET_MODE_FILTER, ctypes.c_uint(flags), filter_
        )
        if listener >= 0:
            return int(listener)
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(archs: Sequence[int], notify: Sequence[str], ignored: Sequence[str]) -> bytes:
    """Return the filter: BPF, eight bytes an instruction."""
    code = [_op(_LOAD, _ARCH_AT)]
    for arch in archs:
        block = [_op(_LOAD, _NUMBER_AT)]
        if arch == _X86_64:  # x32 has numbers of its own, which would pass the filter
            block += _unless(_NOT_LESS, _X32, _ERRNO | errno.ENOSYS)
        for name, number in CALLS[arch].items():
            plain = name.removesuffix("16")
            if plain in notify:
                block += _unless(_EQUAL, number, _ASK)
            elif plain in ignored:
                block += _unless(_EQUAL, number, _ERRNO)
        block.append(_op(_RETURN, _ALLOW))
        code += [_op(_EQUAL, arch, 0, len(block)), *block]
    return b"".join([*code, _op(_RETURN, _ERRNO | errno.ENOSYS)])


def _unless(test: int, value: int, answer: int) -> list[bytes]:
    return [_op(test, value, 0, 1), _op(_RETURN, answer)]


def _op(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def receive(listener: int) -> Question | None:
    """Wait for a notification; None when its sender has ended. Raises OSError at the end."""
    buffer = bytearray(_QUESTION.size)
    try:
        fcntl.ioctl(listener, _RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    key, pid, _, number, arch, _, *args = _QUESTION.unpack(buffer)
    names = {n: name for name, n in CALLS[arch & 0xFFFFFFFF].items()}
    return Question(key, pid, names[number], tuple(args))


def is_waiting(listener: int, question: Question) -> bool:
    """Whether the sender still waits, so that the memory that was read is its own."""
    try:
        fcntl.ioctl(listener, _VALID, struct.pack("=Q", question.key))
    except OSError:
        return False
    return True


def answer(listener: int, question: Question, error: int | None) -> None:
    """Let the call end. error: an errno, 0 for success, None to let the kernel do it."""
    flags = _CONTINUE if error is None else 0
    packed = bytearray(_ANSWER.pack(question.key, 0, -(error or 0), flags))
    try:
        fcntl.ioctl(listener, _SEND, packed)
    except OSError as refusal:
        if refusal.errno != errno.ENOENT:  # the sender has ended
            raise


def chown_nothing(fd: int) -> None:
    """chown(2) an open entry without a new owner, which clears its set-id bits and capabilities."""
    at_empty_path = 0x1000
    if _libc.fchownat(fd, b"", -1, -1, at_empty_path):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def kind_of(fd: int) -> int:
    """Return the magic number of the file system that an open entry is in: statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    kind: int = struct.unpack_from("@l", buffer)[0]
    return kind


def handle(fd: int, name: bytes = b"") -> bytes:
    """Return an inode's handle, name_to_handle_at(2): unlike its number no later inode gets it.

    fd: the inode, open, or the directory that has it under ``name``. Raises OSError where the file
    system has no handles.
    """
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    flags = 0 if name else 0x1000
    if _libc.name_to_handle_at(fd, name, buffer, ctypes.byref(mount), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    size: int = struct.unpack_from("=I", buffer)[0]
    return buffer.raw[4 : 8 + size]
