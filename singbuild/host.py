"""What the host's kernel says of this process and of a directory: umask, room."""

from __future__ import annotations

import os
import re
from pathlib import Path


def umask() -> int:
    """Return this process's umask without setting it, which other threads would notice: proc(5).

    It is 0o777 where the kernel, before Linux 4.7, does not tell.
    """
    match = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1], 8) if match else 0o777


def free_bytes(directory: Path) -> int:
    """Return the bytes that a process may still write in the file system of ``directory``."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
