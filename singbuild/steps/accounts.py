"""Users and groups that USER and --chown name, from a tree's /etc/passwd and /etc/group."""

from __future__ import annotations

from dataclasses import dataclass

from singbuild.errors import ImageError
from singbuild.tree.rootfs import Rootfs

LARGEST = 1 << 20  # bytes


@dataclass(frozen=True)
class Account:
    """One user. groups: the further ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


HIGHEST = 2**32 - 2  # an id: credentials(7); the next one means none


class UnknownAccountError(ValueError):
    """There is no such user or group in the tree."""


def account(rootfs: Rootfs, words: str) -> Account:
    """Return the account of ``USER[:GROUP]``, names or numbers. Raises UnknownAccountError."""
    user, _, group = words.partition(":")
    rows = _rows(rootfs, "passwd", 6)
    entry = next((row for row in rows if user in (row[0], row[2])), None)
    if entry is None and not user.isdecimal():
        raise UnknownAccountError(f"the image has no user {user}")
    # Group 0 where the user has none: Dockerfile reference, "USER".
    uid, gid, home = (entry[2], entry[3], entry[5]) if entry else (user, "0", "/")
    if group:
        return Account(_number(uid), _group(rootfs, group), (), home)
    name = entry[0] if entry else ""
    more = [row[2] for row in _rows(rootfs, "group", 4) if name in row[3].split(",") and name]
    return Account(_number(uid), _number(gid), tuple(map(_number, more)), home)


def owner(rootfs: Rootfs, words: str) -> tuple[int, int]:
    """Return the ids of ``--chown=USER[:GROUP]``; without a group, a number is both.

    Raises UnknownAccountError.
    """
    user, _, group = words.partition(":")
    rows = _rows(rootfs, "passwd", 6)
    if user.isdecimal():
        # Dockerfile reference, "COPY --chown".
        uid, gid = _number(user), _number(user)
    else:
        entry = next((row for row in rows if user == row[0]), None)
        if entry is None:
            raise UnknownAccountError(f"the image has no user {user}")
        uid, gid = _number(entry[2]), _number(entry[3])
    return uid, _group(rootfs, group) if group else gid


def _group(rootfs: Rootfs, group: str) -> int:
    if group.isdecimal():
        return _number(group)
    entry = next((row for row in _rows(rootfs, "group", 3) if row[0] == group), None)
    if entry is None:
        raise UnknownAccountError(f"the image has no group {group}")
    return _number(entry[2])


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 10 or int(text) > HIGHEST:
        raise UnknownAccountError(f"{text[:40]} is no id of a user or group")
    return int(text)


def _rows(rootfs: Rootfs, name: str, fields: int) -> list[list[str]]:
    try:
        text = rootfs.read(f"/etc/{name}", LARGEST).decode(errors="replace")
    except (OSError, ImageError):
        return []
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= fields and row[2].isdecimal()]
