"""Limits of one tree, so that a small archive fills neither the disk nor the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from singbuild import variables
from singbuild.errors import SourceError
from singbuild.tar.member_path import refused
from singbuild.tar.read import Member


@dataclass(frozen=True)
class Limits:
    """The limits of one tree; ``from_environment`` tells which variable sets which.

    entries: members, and directories that none names; size: bytes of all files, holes included;
    names: bytes of all paths and attributes, which the unpacker remembers.
    """

    entries: int = 2_000_000
    size: int = 200 << 30
    names: int = 512 << 20

    @classmethod
    def from_environment(cls) -> Self:
        """Return the limits with what the environment says instead. Raises UsageError."""
        return cls(
            variables.count("SINGBUILD_UNPACK_ENTRIES", cls.entries),
            variables.count("SINGBUILD_UNPACK_BYTES", cls.size),
            variables.count("SINGBUILD_UNPACK_NAMES", cls.names),
        )


class Quota:
    """Counts the members of one tree, and refuses the one that exceeds a limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.entries = self.size = self.names = 0
        self._member: Member | None = None  # the current one, for the error

    def count_member(self, member: Member) -> None:
        """Count a member, but for its path, which may differ. Raises SourceError."""
        self._member = member
        self._entry()
        self.size += member.real_size
        if self.size > self.limits.size:
            raise self._too_much(
                f"with it the files have {self.size:,} bytes; the limit is {self.limits.size:,}",
                "SINGBUILD_UNPACK_BYTES",
            )
        for name, value in member.xattrs.items():
            self.count_name(len(name) + len(value))

    def count_implied(self, path: bytes) -> None:
        """Count a directory that is made because the current member lies below it."""
        self._entry()
        self.count_name(len(path))

    def count_name(self, length: int) -> None:
        """Count bytes of a path or an attribute. Raises SourceError."""
        self.names += length
        if self.names > self.limits.names:
            raise self._too_much(
                f"with it paths and attributes have {self.names:,} bytes; "
                f"the limit is {self.limits.names:,}",
                "SINGBUILD_UNPACK_NAMES",
            )

    def _entry(self) -> None:
        self.entries += 1
        if self.entries > self.limits.entries:
            raise self._too_much(
                f"it is entry number {self.entries:,}; the limit is {self.limits.entries:,}",
                "SINGBUILD_UNPACK_ENTRIES",
            )

    def _too_much(self, why: str, variable: str) -> SourceError:
        assert self._member is not None
        remedy = f"If you trust the source, set {variable} to a larger number."
        return refused(self._member, why, remedy)
