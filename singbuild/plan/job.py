"""What one build carries from step to step, once its inputs are resolved: a frozen value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from singbuild.contract import Pins, Source
from singbuild.plan.lock import Lock
from singbuild.plan.options import Options
from singbuild.plan.plan import Plan
from singbuild.tree.secrets import Secret


@dataclass(frozen=True)
class Job:
    """One build. source, pins: as the backend's hooks get them; lock: all that goes in."""

    plan: Plan
    options: Options
    source: Source
    pins: Pins
    lock: Lock

    @property
    def epoch(self) -> int:
        """Return the date that no file exceeds, in seconds since 1970."""
        return int(self.lock["epoch"])

    @property
    def secrets(self) -> Sequence[Secret]:
        """Return the secrets of %post."""
        return self.options.sections.secrets
