"""A host where flock(2) works nowhere, as on some file systems of clusters."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_FLOCK = {"x86_64": 73, "aarch64": 32}  # <asm/unistd.h>
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # <linux/seccomp.h>
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2  # <linux/prctl.h>


def refuse_flock() -> None:
    """Have the kernel answer ENOLCK to this process and all that it starts; for ``preexec_fn``."""
    rows = (
        (_LOAD, 0, 0, 0),  # the system call's number
        (_JUMP_EQUAL, 0, 1, _FLOCK[platform.machine()]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOLCK),
        (_RETURN, 0, 0, _ALLOW),
    )
    program = b"".join(struct.pack("HBBI", *row) for row in rows)
    buffer = ctypes.create_string_buffer(program)
    described = struct.pack("HP", len(rows), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SECCOMP, _FILTER, described)):
        if libc.prctl(*words):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
