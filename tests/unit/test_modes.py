"""The ways to build on a kernel that lacks a system call."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

from singrun import syscalls

MOUNT_SETATTR, ENOSYS = 442, 38
FILTER = b"".join(
    struct.pack("=HBBI", *line)  # struct sock_filter: <linux/filter.h>, <linux/seccomp.h>
    for line in (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, MOUNT_SETATTR),
        (0x06, 0, 0, 0x00050000 | ENOSYS),
        (0x06, 0, 0, 0x7FFF0000),
    )
)


def become_older() -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp_filter(FILTER)


def test_a_kernel_without_mount_setattr_is_named() -> None:
    argv = [sys.executable, "-m", "singbuild", "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=become_older)
    report = json.loads(done.stdout)
    assert report["chosen"] in (None, "chroot")
    for mode in ("root", "one-id"):
        assert not report["modes"][mode]["works"]
    missing = report["modes"]["one-id"]["missing"]
    expected = {"what": "this kernel has no mount_setattr(2)", "remedy": "Use Linux 5.12 or later."}
    assert expected in missing
