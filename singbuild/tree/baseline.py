"""What a copied source (layers, an image, %files) brought, as far as normalising needs to know.

A source is the same every time, so what comes from it is never normalised. Recorded are the
entries of volatile places, and those later than the epoch, which keep their time. The record
goes into the cache with a stage, by path: inode numbers do not survive there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.ext3.records import MAX_TIME
from singbuild.tree.volatile import is_volatile

_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Stamp:
    """Tells whether an entry was changed or replaced. mtime: nanoseconds."""

    inode: int
    size: int
    mtime: int


@dataclass
class Baseline:
    """The source's entries in one tree. epoch: later times of anything else become it.

    entries: by path relative to the tree; None for one that a program has changed since.
    """

    epoch: int = MAX_TIME
    entries: dict[bytes, Stamp | None] = field(default_factory=dict)

    def wants(self, path: bytes, mtime: int) -> bool:
        """Whether an entry of the source is worth a record. mtime: nanoseconds."""
        return is_volatile(path) or mtime // _SECOND > self.epoch

    def record(self, tree: Path, paths: Iterable[bytes]) -> None:
        """Record entries as the tree has them now."""
        for path in paths:
            if stamp := _stamp(tree, path):
                self.entries[path] = stamp
            else:
                self.entries.pop(path, None)

    def is_intact(self, tree: Path, path: bytes) -> bool:
        """Whether an entry is the source's, and as it came."""
        stamp = self.entries.get(path)
        return stamp is not None and stamp == _stamp(tree, path)

    def times(self, tree: Path) -> dict[bytes, int]:
        """Return the times, in seconds, of intact entries that are later than the epoch."""
        late = {
            path: min(stamp.mtime // _SECOND, MAX_TIME)
            for path, stamp in self.entries.items()
            if stamp and stamp.mtime // _SECOND > self.epoch
        }
        return {path: mtime for path, mtime in late.items() if self.is_intact(tree, path)}

    def saved(self, tree: Path) -> dict[str, bool]:
        """Return the record for the cache: whether an entry is intact, by path."""
        return {os.fsdecode(path): self.is_intact(tree, path) for path in sorted(self.entries)}

    def restore(self, tree: Path, saved: Mapping[str, bool]) -> None:
        """Take up a saved record for a tree that came out of the cache with it."""
        for name, intact in saved.items():
            path = os.fsencode(name)
            self.entries[path] = _stamp(tree, path) if intact else None


def _stamp(tree: Path, path: bytes) -> Stamp | None:
    try:
        status = os.lstat(os.fsencode(tree) + b"/" + path)
    # A step may have put a file where the directory above was.
    except (FileNotFoundError, NotADirectoryError):
        return None
    # A directory's size says how its file system stores it, and not what it holds.
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return Stamp(status.st_ino, size, status.st_mtime_ns)
