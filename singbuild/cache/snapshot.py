"""Snapshots as values: a state of a tree that is worth keeping, and one that the cache has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

IMAGE = "image"  # the name of the snapshot that is the finished image


@dataclass(frozen=True)
class Snapshot:
    """One state of a tree that is worth keeping.

    name: the phase after which it is reached; recipe: whose it is, for people;
    inputs: what went in since the snapshot before, name to digest; parent: that one's key.
    """

    name: str
    recipe: str
    inputs: Mapping[str, str]
    parent: str = ""

    @property
    def key(self) -> str:
        """The name of the entry: a digest of all that went in."""
        facts = json.dumps([self.name, self.parent, dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Entry:
    """A snapshot in the cache. size: bytes on the disk; used: when last, seconds since 1970.

    source: as ``Rootfs.restore`` takes it; shell: the state of %post's, None once that called exit;
    lines: digests of the lines of a %post that was not split; onto: the ``base`` of the entry from
    which its image differs, "" where that is the whole tree; below: that entry; fd: the image, -1
    where it is not open.
    """

    key: str
    name: str
    recipe: str
    inputs: Mapping[str, str]
    parent: str
    sha256: str
    source: Mapping[str, bool]
    path: Path
    size: int
    used: float
    shell: str | None = ""
    lines: tuple[str, ...] = ()
    onto: str = ""
    below: Entry | None = None
    fd: int = -1

    @property
    def chain(self) -> tuple[Entry, ...]:
        """Return the entries that make the tree, topmost first."""
        return (self, *(self.below.chain if self.below else ()))

    @property
    def images(self) -> tuple[Path, ...]:
        """Return the images that make the tree, topmost first, while they are open."""
        return tuple(each.image for each in self.chain)

    @property
    def image(self) -> Path:
        """Return the image, while it is open, whatever has its name by now."""
        return Path(f"/proc/self/fd/{self.fd}") if self.fd >= 0 else self.path

    @property
    def base(self) -> str:
        """Return what names this very tree: another one of its key may have other files."""
        return f"{self.key}:{self.sha256}"
