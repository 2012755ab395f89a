"""What the host's kernel says of this process and of a directory: umask, room."""

from __future__ import annotations

import os
import re
from pathlib import Path


def umask() -> int:
    """Return this process's umask without setting it, which other threads would notice: proc(5).

    It is 0o777 where the kernel, before Linux 4.7, does not tell.
    """
    found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 8) if found else 0o777


def free_bytes(directory: Path) -> int:
    """Return the bytes that a process may still write in the file system of ``directory``."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
