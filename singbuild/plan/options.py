"""What a caller of the engine asks for beyond the recipe, as one frozen value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.ext3.writer.seal import Shape
from singbuild.file_tree import FileTree
from singbuild.plan.lock import LockFile
from singbuild.privilege.modes import Mode
from singbuild.tree.sections import SectionOptions
from singrun.signatures.signers import Signers


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    free: bytes of room to leave in the image; locked: the lock to keep to; shape: what
    an existing image keeps that is filled in place; base_image: the image whose tree is filled;
    section_options: what sections get; privilege: the mode, None for the best that works; keep:
    save the tree when a section fails; resume: continue with that tree;
    replaced_image: the file whose mode and owner the image takes; format: the word of a kind of
    image, "" for the one that the target's name ends with; writer: the host program that writes
    it, with its version, "" where none does; command: as contract.Build has it;
    checked_target: the target of a check for reproducibility, which builds twice and reports the
    end itself; None for any other build;
    cache_from, cache_to: URIs of places that have stages of builds, or get them;
    cache_signers: whose stages are taken, None for everybody's; cache_key: signs those sent;
    owner_may: give the owner of each file what ``chmod u+rwX`` does.
    """

    force: bool = False
    test: bool = True
    free: int = 0
    use_cache: bool = True
    locked: LockFile | None = None
    shape: Shape = field(default_factory=Shape)
    base_image: FileTree | None = None
    section_options: SectionOptions = field(default_factory=SectionOptions)
    privilege: Mode | None = None
    keep: bool = False
    resume: bool = False
    replaced_image: os.stat_result | None = None
    format: str = ""
    writer: str = ""
    command: str = "build"
    checked_target: Path | None = None
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    cache_signers: Signers | None = None
    cache_key: Path | None = None
    owner_may: bool = False

    @property
    def open_caches(self) -> list[str]:
        """Return the URIs whose stages are taken though they are neither pinned nor signed."""
        loose = (uri for uri in self.cache_from if "@sha256:" not in uri)
        return [] if self.cache_signers else [*loose]

    @property
    def host_words(self) -> list[str]:
        """Return what sections see of the host, and what else has no place in the recipe."""
        return [*self.section_options.host.words(), *(["--fix-perms"] if self.owner_may else [])]

    @property
    def finish(self) -> dict[str, str]:
        """Return what the finished image depends on beyond its recipe and lock, by name."""
        packages = self.locked.lock.get("packages") if self.locked else None
        return {
            "tested": str(self.test),
            "free": str(self.free),
            "shape": str(self.shape),
            "locked": str(packages),
            **({"fix-perms": ""} if self.owner_may else {}),
        }
