"""What the instructions of one stage do to its tree: the values that ``evaluation`` makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from singbuild.recipe.recipe import Document, Instruction

TRIGGER = "onbuild"
URL = ("http://", "https://")


@dataclass(frozen=True)
class Mount:
    """What ``RUN --mount`` asks for: fields by name."""

    kind: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Action:
    """What an instruction does to the tree.

    name: of its step; user, directory: those that USER and WORKDIR have set by then.
    """

    name: str
    instruction: Instruction
    user: str = ""
    directory: str = "/"

    @property
    def is_trigger(self) -> bool:
        """Whether an ONBUILD of the base asks for it."""
        return self.name.startswith(TRIGGER)


@dataclass(frozen=True)
class Run(Action):
    """Execute a program. script: text that begins with ``#!``, for a file to be executed; or "".

    is_offline: it reaches no network.
    """

    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    script: str = ""
    is_offline: bool = False


@dataclass(frozen=True)
class Copy(Action):
    """Copy files. stage: whose tree has them, "" for the context; documents: files given here.

    keeps_parents: each goes where it was, below the destination.
    """

    sources: tuple[str, ...] = ()
    destination: str = ""
    stage: str = ""
    owner: str = ""
    mode: str = ""
    documents: tuple[Document, ...] = ()
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keeps_parents: bool = False


@dataclass(frozen=True)
class Workdir(Action):
    """Make the directory if it is not there."""


@dataclass(frozen=True)
class Evaluation:
    """A stage's actions, and the configuration after them."""

    actions: tuple[Action, ...]
    config: Mapping[str, Any]


def stages_of(action: Action) -> Iterator[str]:
    """Yield the names of the stages whose trees an action reads."""
    if isinstance(action, Copy) and action.stage:
        yield action.stage
    if isinstance(action, Run):
        yield from (mount.fields["from"] for mount in action.mounts if "from" in mount.fields)
