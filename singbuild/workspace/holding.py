"""Files that are held by flock(2) while their build lives, which tells left-overs from work."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def hold_new(fd: int) -> bool:
    """Hold a new file; return False where another build swept it before that."""
    with contextlib.suppress(OSError):  # some file systems of clusters know no locks
        fcntl.flock(fd, fcntl.LOCK_EX)
    return os.fstat(fd).st_nlink > 0


def hold(path: Path | str, flags: int, directory: int | None = None) -> int | None:
    """Open and hold a file; None when a process that lives holds it. directory: open, of a name."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
