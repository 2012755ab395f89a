"""What is mounted where, as the kernel lists it. proc(5), /proc/PID/mountinfo.

Four bytes are escaped there, blank, tab, newline and backslash; all others stand as they are.
"""

import os

_ESCAPED = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\"))


def mounts() -> list[tuple[str, str]]:
    """Return the mount point and the type of each mount, in the kernel's order."""
    rows = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            head, _, tail = line.partition(b" - ")
            rows.append((os.fsdecode(plain(head.split()[4])), tail.split()[0].decode()))
    return rows


def kind_of(path: str) -> str:
    """Return the type of the file system that ``path`` lies on, such as "nfs4"."""
    real, longest, kind = os.path.realpath(path), 0, ""
    for place, mounted in mounts():
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        # The last of those mounted in one place is the one that is seen.
        if inside and len(place) >= longest:
            longest, kind = len(place), mounted
    return kind


def plain(word: bytes) -> bytes:
    """Return a path as it is."""
    for escaped, byte in _ESCAPED:  # the backslash last
        word = word.replace(escaped, byte)
    return word


def escaped(path: bytes) -> bytes:
    """Return a path as the kernel writes it."""
    for word, byte in reversed(_ESCAPED):
        path = path.replace(byte, word)
    return path
