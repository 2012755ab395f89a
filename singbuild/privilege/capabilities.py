"""The powers of root that a process has, or does without: capabilities(7)."""

from __future__ import annotations

from pathlib import Path

from singrun import syscalls

SETPCAP, SYS_CHROOT = syscalls.CAP_SETPCAP, syscalls.CAP_SYS_CHROOT
SYS_ADMIN, MKNOD = syscalls.CAP_SYS_ADMIN, syscalls.CAP_MKNOD


def has(number: int) -> bool:
    """Whether this process may do what a capability allows, in its user namespace."""
    effective = Path("/proc/self/status").read_text().partition("CapEff:\t")[2].split()[0]
    return bool(int(effective, 16) >> number & 1)


def drop(number: int) -> None:
    """Drop a capability of this process and of all that it will execute. Raises OSError."""
    if syscalls.prctl(syscalls.PR_CAPBSET_READ, number):
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.capset(*(each & ~(1 << number) for each in syscalls.capget()))
