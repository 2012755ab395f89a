"""The powers of root that a process has, or does without: capabilities(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from singrun import syscalls

SYS_CHROOT, SYS_ADMIN, MKNOD = 18, 21, 27
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24  # prctl(2)
_VERSION_3 = 0x20080522  # capget(2)

_libc = ctypes.CDLL(None, use_errno=True)


def has(number: int) -> bool:
    """Whether this process may do what a capability allows, in its user namespace."""
    effective = Path("/proc/self/status").read_text().partition("CapEff:\t")[2].split()[0]
    return bool(int(effective, 16) >> number & 1)


def drop(number: int) -> None:
    """Go without a capability from now on, and all that is executed too. Raises OSError."""
    if syscalls.prctl(_PR_CAPBSET_READ, number):
        syscalls.prctl(_PR_CAPBSET_DROP, number)
    header = struct.pack("=Ii", _VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; twice 32 bits
    _checked(_libc.capget(header, sets))
    kept = [word & ~(1 << number) for word in struct.unpack("=3I", sets.raw[:12])]
    _checked(_libc.capset(header, struct.pack("=3I", *kept) + sets.raw[12:]))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
