"""One inode of a tree, shared by reader and writer, and its owner in the image."""

from dataclasses import dataclass
from typing import NamedTuple

LOST_AND_FOUND = b"lost+found"
HOME = b".singularity.d"
MANIFEST = HOME + b"/manifest"  # docs/image-format.md, "The digest and the manifest"
MANIFEST_ENTRY = 16  # bytes for each inode of the tree


class Node(NamedTuple):
    """One inode of the tree, under the first of its names.

    path: relative to the tree, without a leading slash; b"" is the root.
    parent: the number of the directory that has this name.
    mtime: whole seconds, never later than the seal's epoch.
    size: bytes; 0 for a directory. device: of a device node, as makedev(3) makes it.
    links: names in the tree; for a directory as ext3 counts them.
    """

    path: bytes
    parent: int
    number: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    device: int
    links: int


def one_line(text: bytes) -> str:
    """Write a name or a path for a message: on one line, whatever bytes it has."""
    characters = text.decode(errors="backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in characters
    )


def shown(path: bytes) -> str:
    """Write a path inside the tree for a message: from the root, on one line."""
    return "/" + one_line(path)


@dataclass(frozen=True)
class Owner:
    """What an entry shall be, where the host's file could not be made so.

    mode: the type and permissions of a device that an empty file stands for, else 0.
    """

    uid: int
    gid: int
    mode: int = 0
    device: int = 0
