"""The places of a root file system whose content differs between two runs: data only.

``normalise.py`` acts on them; ``baseline.py`` remembers what the source has there.
"""

from __future__ import annotations

import os

INDICES = "/var/lib/apt/lists"
TEMPORARY = {
    "/tmp": "temporary files",  # noqa: S108 (inside the image)
    "/var/tmp": "temporary files",  # noqa: S108
    "/run": "what a running system would write",
    INDICES: "package indices, which change by the day",
    "/var/cache/apt": "package files and an index with times in it",
    "/var/cache/dnf": "package files and indices",
    "/var/cache/yum": "package files and indices",
    "/var/cache/apk": "package files and indices",
    "/var/cache/zypp": "package files and indices",
    "/var/cache/pacman/pkg": "package files",
    "/var/lib/pacman/sync": "package indices, which change by the day",
    "/var/log/apt": "times of installation",
    "/var/log/journal": "times",
    # Only what pip can fetch again: models and other data lie beside it.
    "/root/.cache/pip/http": "answers of servers, with their times",
    "/root/.cache/pip/http-v2": "answers of servers, with their times",
    "/root/.cache/pip/selfcheck": "when pip last asked for a newer pip",
}
BACKUPS = {
    "/var/cache/ldconfig/aux-cache": "inode numbers and times of libraries",
    "/var/lib/systemd/random-seed": "random on purpose",
    "/var/lib/dbus/machine-id": "random on purpose",
    "/var/lib/dpkg/status-old": "the package database before the last change",
    "/var/lib/dpkg/available-old": "the package database before the last change",
    "/var/cache/debconf/config.dat-old": "the answers before the last change",
    "/var/cache/debconf/templates.dat-old": "the questions before the last change",
    "/etc/passwd-": "the file before the last change",
    "/etc/group-": "the file before the last change",
    "/etc/shadow-": "the file before the last change",
    "/etc/gshadow-": "the file before the last change",
    "/etc/.pwd.lock": "a lock",
    "/var/lib/dpkg/lock": "a lock",
    "/root/.bash_history": "what was typed",
}
LOGS = "/var/log"
SHADOW = "/etc/shadow"
MACHINE_ID = "/etc/machine-id"
BYTECODE = ".pyc"

_FILES = frozenset(os.fsencode(name[1:]) for name in (*BACKUPS, SHADOW, MACHINE_ID))
_BELOW = tuple(os.fsencode(f"{name[1:]}/") for name in (*TEMPORARY, LOGS))


def is_volatile(path: bytes) -> bool:
    """Whether a rule applies to an entry. path: relative to the tree."""
    return path.endswith(BYTECODE.encode()) or is_in_place(path)


def is_in_place(path: bytes) -> bool:
    """Whether an entry lies where a rule applies, whatever it is."""
    return path.startswith(_BELOW) or path in _FILES
