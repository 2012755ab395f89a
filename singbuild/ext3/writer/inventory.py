"""What a finished tree holds: one walk over it, in the order of its bytes.

The walk sees names and metadata only; file data, symbolic links' targets and
extended attributes are read by the seal when it writes them. What ext3 cannot
hold is refused here, before anything is written. Nothing here knows how a
block is laid out.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from singbuild.errors import HostError, ImageError
from singbuild.ext3.geometry import MAX_FILE_BYTES, MAX_LINKS
from singbuild.ext3.node import LOST_AND_FOUND, Node, Owner, shown
from singbuild.ext3.records import MAX_TIME, MIN_TIME
from singbuild.ext3.writer.nodes import Nodes, Status
from singrun.mounts import mountinfo

_KINDS = (
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
)


def inventory(
    tree: Path,
    epoch: int,
    owners: Mapping[bytes, Owner] = MappingProxyType({}),
    times: Mapping[bytes, int] = MappingProxyType({}),
) -> Nodes:
    """Every inode of ``tree``, the root first, numbered as the image will number them.

    Directories come before what they hold. The order depends on names alone.
    The root's ``lost+found`` is left out: it belongs to the file system. owners: what
    the host could not give, by path; times: those that may be later than the epoch, by path.
    Raises ImageError for what ext3 cannot hold, a mount left inside the tree,
    or what cannot be read.
    """
    root = os.fsencode(tree.resolve())
    check_no_mounts(root)
    walk = _Walk(root, epoch, owners, times)
    nodes = Nodes()
    try:
        nodes.fill(walk.status(b"", b"", os.lstat(root)), walk.listings())
    except OSError as error:
        raise unreadable(error, root) from error
    nodes.reserve_manifest()
    check_all_fit(nodes)
    return nodes


def check_all_fit(nodes: Nodes) -> None:
    """Refuse a tree with anything that ext3 cannot hold. Raises ImageError."""
    if not nodes.fits_ext3:
        for node in nodes:
            check_fits_ext3(node)


def unreadable(error: OSError, root: bytes) -> ImageError:
    """Return the error for what cannot be read, with its path inside the tree."""
    path = os.fsencode(error.filename or b"").removeprefix(root).lstrip(b"/")
    return ImageError(f"cannot seal {shown(path)}", why=f"{error.strerror or error}")


def check_no_mounts(root: bytes) -> None:
    """Refuse a tree with something mounted in it: its content is not the tree's."""
    try:
        points = [os.fsencode(place) for place, _ in mountinfo.mounts()]
    except OSError as error:
        raise HostError(
            "cannot read /proc/self/mountinfo", why=str(error), remedy="Mount /proc."
        ) from error
    for point in points:
        if point.startswith(root.rstrip(b"/") + b"/"):
            inside = point.removeprefix(root).lstrip(b"/")
            raise ImageError(
                f"cannot seal the tree: something is still mounted on {shown(inside)}",
                remedy=f"Unmount {os.fsdecode(point)}.",
            )


def check_fits_ext3(node: Node) -> None:
    """Refuse what ext3 cannot hold. Raises ImageError."""
    if stat.S_ISDIR(node.mode) and node.links > MAX_LINKS:
        why = f"it has {node.links - 2} subdirectories; ext3 holds {MAX_LINKS - 2}"
    elif node.links > MAX_LINKS:
        why = f"it has {node.links} hard links; ext3 holds {MAX_LINKS}"
    elif node.mtime < MIN_TIME:
        why = "it was modified before 1901-12-13, the first date ext3 holds"
    elif stat.S_ISREG(node.mode) and node.size > MAX_FILE_BYTES:
        why = f"it has {node.size} bytes; an ext3 file holds {MAX_FILE_BYTES} (2 TiB)"
    elif stat.S_IFMT(node.mode) not in _KINDS:
        why = f"it is of an unknown type (mode {node.mode:o})"
    else:
        return
    raise ImageError(f"cannot seal {shown(node.path)}", why=why)


def check_epoch(epoch: int) -> None:
    """Refuse an epoch that the image could not record."""
    if not 0 <= epoch <= MAX_TIME:
        raise ImageError(
            f"the epoch {epoch} is no date that ext3 can hold",
            why=f"it counts seconds since 1970 and ends at {MAX_TIME} (the year 2446)",
            remedy="Check SOURCE_DATE_EPOCH.",
        )


@dataclass(frozen=True)
class _Walk:
    """One walk over a tree. root, epoch, owners, times: as ``inventory`` has them."""

    root: bytes
    epoch: int
    owners: Mapping[bytes, Owner]
    times: Mapping[bytes, int]

    def listings(self) -> Iterator[Iterator[Status]]:
        """Yield what each directory holds: directories in pre-order, names sorted."""
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            below: list[bytes] = []
            yield self._listing(directory, below)
            waiting.extend(reversed(below))

    def _listing(self, directory: bytes, below: list[bytes]) -> Iterator[Status]:
        """Yield what a directory holds. below: gets the paths of the directories in it."""
        prefix = directory + b"/" if directory else b""
        place = self.root + b"/" + prefix
        for name in sorted(os.listdir(place)):  # noqa: PTH208 - a name is bytes, not a Path
            status = os.lstat(place + name)
            is_directory = stat.S_ISDIR(status.st_mode)
            if name == LOST_AND_FOUND and not directory:
                if is_directory:
                    continue
                raise ImageError(
                    "cannot seal /lost+found", why="ext3 needs the name for a directory"
                )
            if is_directory:
                below.append(prefix + name)
            yield self.status(name, prefix + name, status)

    def status(self, name: bytes, path: bytes, status: os.stat_result) -> Status:
        """Return what the image will have under a name."""
        mode, size, device = status.st_mode, status.st_size, status.st_rdev
        uid, gid = status.st_uid, status.st_gid
        if owner := self.owners.get(path):
            uid, gid = owner.uid, owner.gid
            if owner.mode and stat.S_ISREG(mode):
                mode, device, size = owner.mode, owner.device, 0
        directory = stat.S_ISDIR(mode)
        # Names of one inode share it; a number that no other file system's inode has.
        inode = 0 if directory or status.st_nlink == 1 else status.st_dev << 64 | status.st_ino
        # Whole seconds: all that tar, cpio and SOURCE_DATE_EPOCH know, so a tree
        # gives the same image after a passage through any of them.
        mtime = self.times.get(path, min(status.st_mtime_ns // 1_000_000_000, self.epoch))
        if directory:
            size = 0
        return Status(name, inode, mode, uid, gid, mtime, size, device, status.st_blocks * 512)
