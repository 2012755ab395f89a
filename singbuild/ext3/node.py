"""One inode of a tree, shared by reader and writer, and its owner in the image."""

from dataclasses import dataclass, field

LOST_AND_FOUND = b"lost+found"
HOME = b".singularity.d"
MANIFEST = HOME + b"/manifest"  # docs/image-format.md, "The digest and the manifest"
MANIFEST_ENTRY = 16  # bytes for each inode of the tree


@dataclass(slots=True)
class Node:
    """One inode of the tree, under the first of its names.

    path: relative to the tree, without a leading slash; b"" is the root.
    mtime: whole seconds, never later than the seal's epoch.
    disk_bytes: what the host's file system uses for it: a hint, never content.
    links: names in the tree; for a directory as ext3 counts them.
    entries: a directory's names and inodes, sorted; None for anything else.
    """

    path: bytes
    number: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    device: int
    disk_bytes: int
    parent: int
    links: int = 1
    entries: "list[tuple[bytes, Node]] | None" = field(default=None, repr=False)


def shown(path: bytes) -> str:
    """Write a path inside the tree for a message: on one line, whatever bytes it has."""
    text = "/" + path.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Owner:
    """What an entry shall be, where the host's file could not be made so.

    mode: the type and permissions of a device that an empty file stands for, else 0.
    """

    uid: int
    gid: int
    mode: int = 0
    device: int = 0
