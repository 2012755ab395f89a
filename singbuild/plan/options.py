"""What a caller of the engine asks for beyond the recipe, as one frozen value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.ext3.writer.seal import Shape
from singbuild.file_tree import FileTree
from singbuild.plan.lock import LockFile
from singbuild.privilege.modes import Mode
from singbuild.tree.sections import Context


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    free: bytes of room to leave in the image; locked: the lock to keep to; shape: what
    an existing image keeps that is filled in place; onto: the image whose tree is filled;
    sections: what they get; privilege: the mode, None for the best that works; keep: the
    tree when a section fails; resume: what was kept;
    replaced: the file whose mode and owner the image takes; format: the word of a kind of image,
    "" for the one that the target's name ends with; writer: the host program that writes
    it, with its version, "" where none does; command: as contract.Build has it; trial_for: the
    target of a check that this build is a part of, which alone says that it is done; cache_from,
    cache_to: URIs of places that have stages of builds, or get them.
    """

    force: bool = False
    test: bool = True
    free: int = 0
    use_cache: bool = True
    locked: LockFile | None = None
    shape: Shape = field(default_factory=Shape)
    onto: FileTree | None = None
    sections: Context = field(default_factory=Context)
    privilege: Mode | None = None
    keep: bool = False
    resume: bool = False
    replaced: os.stat_result | None = None
    format: str = ""
    writer: str = ""
    command: str = "build"
    trial_for: Path | None = None
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()

    @property
    def finish(self) -> dict[str, str]:
        """What has a say in the finished image beyond the recipe."""
        packages = self.locked.lock.get("packages") if self.locked else None
        return {
            "tested": str(self.test),
            "free": str(self.free),
            "shape": str(self.shape),
            "locked": str(packages),
        }
