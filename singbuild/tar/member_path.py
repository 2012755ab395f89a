"""Where the members of an archive lie: their names and link targets as paths below the root."""

from __future__ import annotations

from singbuild.errors import SourceError
from singbuild.ext3.node import one_line
from singbuild.tar.read import Member


def split(member: Member) -> tuple[bytes, bytes]:
    """Return the directory and the name of a member; no name for the root itself.

    Raises SourceError for what lies outside the root.
    """
    path = _clean(member.name)
    if path is None:
        raise refused(member, "its name leads out of the tree")
    return parted(path)


def split_target(member: Member) -> tuple[bytes, bytes]:
    """Return the directory and the name of what a hard link is a link to. Raises SourceError."""
    path = _clean(member.link)
    if not path:
        raise refused(member, f"it is a link to {one_line(member.link)}, outside the tree")
    return parted(path)


def parted(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory and the name of a path."""
    above, _, name = path.rpartition(b"/")
    return above, name


def refused(member: Member, why: str, remedy: str = "") -> SourceError:
    """Return the error for a member that cannot be unpacked."""
    remedy = remedy or "Find out who made the archive; nothing of it was kept."
    return SourceError(f"{one_line(member.name)}: cannot be unpacked", why=why, remedy=remedy)


def _clean(name: bytes) -> bytes | None:
    """Return a path without ``.``, ``..`` and needless slashes; None when it leads above the root.

    ``..`` takes away the name before it, links or not, as Docker and umoci have it: what the
    archive's maker tested with them unpacks to the same place here.
    """
    if not (name.startswith((b".", b"/")) or name.endswith(b"/") or b"//" in name or b"/." in name):
        return name  # nearly all
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
