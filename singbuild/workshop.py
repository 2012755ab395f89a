"""Where the trees of one build are made, by what privilege: scratch, namespaces, downloads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from singbuild import workspace
from singbuild.cache.filling import Place
from singbuild.console.display import Console
from singbuild.plan import places
from singbuild.plan.plan import Plan
from singbuild.privilege import capabilities, seccomp
from singbuild.privilege.modes import Choice, Mode
from singbuild.privilege.recorder import Recorder
from singbuild.tree import chroot, layers, scratch
from singbuild.tree.layers import Layers
from singbuild.tree.rootfs import Rootfs


@dataclass(frozen=True)
class Workshop:
    """What one build works with. scratch: its directory; log: its path, for errors."""

    scratch: Path
    console: Console
    choice: Choice
    log: Path

    @property
    def _journal(self) -> Path:
        return self.scratch / "owners"

    def recorder(self) -> Recorder | None:
        """Return the recorder of owners and devices that this host cannot give; None for none."""
        if self.choice.mode is Mode.ROOT or not seccomp.is_known():
            return None
        if self.choice.mode is Mode.CHROOT and scratch.holds_devices(self.scratch):
            return None
        return Recorder(self._journal, owners=self.has_one_owner)

    def dropped_capabilities(self) -> list[int]:
        """Return the capabilities to drop: mode chroot mounts nothing, and may make no devices."""
        if self.choice.mode is not Mode.CHROOT:
            return []
        devices = [] if scratch.holds_devices(self.scratch) else [capabilities.MKNOD]
        return [capabilities.SYS_ADMIN, *devices]

    @property
    def has_one_owner(self) -> bool:
        """Whether all files are the caller's here, whatever a program asks for."""
        return self.choice.mode is Mode.ONE_ID or chroot.has_one_id()

    @property
    def snapshots(self) -> Place:
        """Return which snapshots can be used: a tree may lie over images where root mounts them."""
        may_overlay = self.choice.mode is Mode.ROOT and layers.are_known()
        return Place(self.has_one_owner, may_overlay)

    @property
    def may_nest(self) -> bool:
        """Whether work gets namespaces of its own within those of the build."""
        return self.choice.mode is not Mode.CHROOT

    def report_mode(self, host: Sequence[str]) -> None:
        """Report the privilege mode and its limits. host: what of the host sections see."""
        self.console.line(f"privilege: {self.choice.mode}: {self.choice.reason}")
        if host:
            what = ", ".join(host)
            self.console.warn(f"sections see {what}: the bits of the image depend on it")
        if self.choice.mode is Mode.CHROOT:
            inside = "in %post and %test"
            self.console.warn(f"nothing may be mounted here: /proc and /sys are empty {inside}")
            if not capabilities.has(capabilities.MKNOD):
                self.console.warn(
                    f"no device works here: /dev/null is a file {inside}, others are missing"
                )

    @contextlib.contextmanager
    def rootfs(self, directory: Path, epoch: int) -> Iterator[Rootfs]:
        """Yield an empty tree in a scratch below a directory, which goes with the with-block."""
        is_root = self.choice.mode is Mode.ROOT
        with (
            scratch.scratch(directory, privileged=is_root) as root,
            contextlib.ExitStack() as stack,
        ):
            below = stack.enter_context(contextlib.closing(Layers(root))) if is_root else None
            yield Rootfs(root, self.console, self._journal, epoch, below)

    def downloads(self, plan: Plan) -> Path:
        """Where a backend keeps downloads: the cache, or the scratch if that is read-only."""
        cache = plan.source.cache
        with contextlib.suppress(OSError):
            workspace.make_in_cache(cache)
        if trouble := places.cache_trouble(cache.parent, plan.backend.needs.space):
            self.console.warn(trouble)
        if os.access(cache, os.W_OK):
            return cache
        (self.scratch / "downloads" / plan.backend.name).mkdir(parents=True, exist_ok=True)
        return self.scratch / "downloads" / plan.backend.name
