"""One step of a build that changes the tree, as a value: its reason, its inputs, its work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from singbuild.recipe.recipe import Section
from singbuild.tree.rootfs import Rootfs

Facts = Mapping[str, str]
"""What goes into a step, name to digest."""


@dataclass(frozen=True)
class StageTree:
    """The finished tree of an earlier stage.

    image: has it; source: as ``Rootfs.restore`` wants; changes: as ``Workplace`` has them.
    """

    image: Path
    source: Mapping[str, bool] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workplace:
    """Where steps work.

    scratch: the scratch directory; stages: those that a step names, by name; began: when %post's
    lines were read, in seconds, by the recipe's line; changes: digests of what steps read of the
    host that is not what was planned, by its name in the lock; "" for what was gone.
    """

    rootfs: Rootfs
    scratch: Path
    stages: Mapping[str, StageTree]
    began: dict[int, float] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)

    @property
    def is_as_planned(self) -> bool:
        """Whether all that was read, by the steps of stages too, is what was planned."""
        return not (self.changes or any(each.changes for each in self.stages.values()))


@dataclass(frozen=True)
class TreeStep:
    """One step. name: of its phase; stages: whose trees it needs.

    facts: what goes in, for a snapshot's key, by name; is_known: whether nothing else goes in.
    execute: does the step; takes the state of the shell before it, and returns the one after it,
    None once that shell has called exit. uses_secrets: whether the step can read them;
    whole: a %post that is not split.
    """

    name: str
    reason: str
    facts: Facts
    execute: Callable[[Workplace, str | None], str | None]
    stages: tuple[str, ...] = ()
    is_known: bool = True
    uses_secrets: bool = False
    whole: Section | None = None


def digest(value: object) -> str:
    """Return the SHA-256 of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def joined(*parts: Facts) -> Facts:
    """Return facts as one. Of a name in two parts, such as that of a file ``COPY``, both count."""
    facts: dict[str, str] = {}
    for part in parts:
        for name, value in part.items():
            facts[name] = digest([facts[name], value]) if name in facts else value
    return facts
