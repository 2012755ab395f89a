"""Closes a terminal's back doors for a program that is kept apart from its caller (--contain).

Who has a terminal open may, by TIOCSTI and TIOCLINUX (ioctl_tty(2), ioctl_console(2)), type into
it: into the caller's shell, once the program has ended. A filter refuses both; seccomp(2).
"""

import errno
import os
import sys

from singrun import syscalls
from singrun.errors import RunError

_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # <asm-generic/ioctls.h>; the same on powerpc
# By machine: what it calls itself and its other ABI, and their numbers of ioctl(2). <linux/audit.h>
_X32 = 0x40000000
_ABIS = {
    "x86_64": ((0xC000003E, (16, _X32 + 514)), (0x40000003, (54,))),
    "aarch64": ((0xC00000B7, (29,)), (0x40000028, (54,))),
    "riscv64": ((0xC00000F3, (29,)),),
    "ppc64le": ((0xC0000015, (54,)),),
    "s390x": ((0x80000016, (54,)),),
}
# <linux/filter.h>, <linux/seccomp.h>: offsets in struct seccomp_data
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH = 0, 4
# The kernel reads the lower half of the second argument only; so must we.
_REQUEST = 24 if sys.byteorder == "little" else 28


def close_back_doors() -> None:
    """Refuse the two requests from here on; needs no_new_privs. RunError: seccomp(2) failed."""
    try:
        syscalls.seccomp_filter(_program(os.uname().machine))
    except (OSError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else "Not known for this machine"
        remedy = "Use a kernel with seccomp filters, or leave --contain out."
        what = "Cannot keep the program from typing into the terminal"
        raise RunError(what, why=f"{why}.", remedy=remedy) from None


def _program(machine: str) -> bytes:
    """Return the filter for classic BPF."""
    check = [
        _line(_LOAD, _REQUEST),
        _line(_EQUAL, _TIOCSTI, 2),
        _line(_EQUAL, _TIOCLINUX, 1),
        _line(_RETURN, _ALLOW),
        _line(_RETURN, _ERRNO | errno.EPERM),
    ]
    lines = [_line(_RETURN, _ERRNO | errno.ENOSYS), *check]  # an ABI that is not known
    for arch, numbers in reversed(_ABIS[machine]):
        calls: list[bytes] = [_line(_RETURN, _ALLOW)]
        for number in numbers:
            distance = len(calls) + len(lines) - len(check)
            calls.insert(0, _line(_EQUAL, number, distance))
        calls.insert(0, _line(_LOAD, _NUMBER))
        lines = [_line(_LOAD, _ARCH), _line(_EQUAL, arch, 0, len(calls)), *calls, *lines]
    return b"".join(lines)


def _line(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """Return a struct sock_filter."""
    order = sys.byteorder
    return code.to_bytes(2, order) + bytes((then, otherwise)) + value.to_bytes(4, order)
