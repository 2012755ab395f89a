"""Asks the kernel, in processes that end at once, which namespaces and mounts it gives."""

from __future__ import annotations

import os
from collections.abc import Callable

from singbuild.privilege import namespace
from singbuild.privilege.subordinate import Ranges
from singrun import syscalls


def user_namespace_refused(ids: Ranges | None = None) -> str:
    """Return why this host gives the caller no user namespace, "" when it does.

    ids: to be mapped into it. Raises HostError when newuidmap refuses them.
    """
    number = namespace.fork_and_wait(lambda: _errno(_unshare_user))
    if not number:
        number = namespace.in_user_namespace(None, ids, lambda: _errno(_mount_proc))
    return os.strerror(number) if number else ""


def mounts_refused() -> str:
    """Return why root gets no mounts of its own here, "" when it does."""
    number = namespace.fork_and_wait(lambda: _errno(_unshare_mounts))
    return os.strerror(number) if number else ""


def _unshare_user() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER)


def _unshare_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    _mount_proc()


def _mount_proc() -> None:
    """Mount the /proc of a new PID namespace: most containers forbid it, since theirs is masked."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.unshare(syscalls.CLONE_NEWPID)
    number = namespace.fork_and_wait(
        lambda: _errno(lambda: syscalls.mount("proc", "/proc", "proc", flags, ""))
    )
    if number:
        raise OSError(number, os.strerror(number))


def _errno(call: Callable[[], None]) -> int:
    """Return the errno that a call fails with, 0 when it does not: a process's status."""
    try:
        call()
    except OSError as error:
        return error.errno or 1
    return 0
