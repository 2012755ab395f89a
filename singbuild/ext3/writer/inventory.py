"""What a finished tree holds: one walk over it, in the order of its bytes.

The walk sees names and metadata only; file data, symbolic links' targets and
extended attributes are read by the seal when it writes them. What ext3 cannot
hold is refused here, before anything is written. Nothing here knows how a
block is laid out.
"""

import gc
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

from singbuild.errors import HostError, ImageError
from singbuild.ext3.geometry import FIRST_INODE, MAX_FILE_BYTES, MAX_LINKS, ROOT_INODE
from singbuild.ext3.node import HOME, LOST_AND_FOUND, MANIFEST, MANIFEST_ENTRY, Node, Owner, shown
from singbuild.ext3.records import MAX_TIME, MIN_TIME
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
    owners: Mapping[bytes, Owner] | None = None,
    times: Mapping[bytes, int] | None = None,
) -> list[Node]:
    """Every inode of ``tree``, the root first, numbered as the image will number them.

    Directories come before what they hold. The order depends on names alone.
    The root's ``lost+found`` is left out: it belongs to the file system. owners: what
    the host could not give, by path; times: those that may be later than the epoch, by path.
    Raises ImageError for what ext3 cannot hold, a mount left inside the tree,
    or what cannot be read.
    """
    root = os.fsencode(tree.resolve())
    check_no_mounts(root)
    try:
        with _collector_paused():
            nodes = list(_walk(root, epoch))
    except OSError as error:
        raise unreadable(error, root) from error
    if owners:
        _set_owners(nodes, owners)
    if times:
        _keep_times(nodes, times)
    reserve_manifest(nodes)
    for node in nodes:
        if node.links > MAX_LINKS or node.mtime < MIN_TIME or node.size > MAX_FILE_BYTES:
            check_fits_ext3(node)
    return nodes


def _set_owners(nodes: list[Node], owners: Mapping[bytes, Owner]) -> None:
    """Set the owners and devices that were recorded for inodes, by the first of their names."""
    for node in nodes:
        if owner := owners.get(node.path):
            node.uid, node.gid = owner.uid, owner.gid
            if owner.mode and stat.S_ISREG(node.mode):
                node.mode, node.device, node.size = owner.mode, owner.device, 0


def _keep_times(nodes: list[Node], times: Mapping[bytes, int]) -> None:
    """Give each inode the time that was recorded for any of its names."""
    nodes[0].mtime = times.get(b"", nodes[0].mtime)
    for directory in nodes:
        prefix = directory.path + b"/" if directory.path else b""
        for name, node in directory.entries or ():
            node.mtime = times.get(prefix + name, node.mtime)


def reserve_manifest(nodes: list[Node]) -> None:
    """Set the size that the manifest will have, where the tree has one: the seal fills it last."""
    names = {name: node for name, node in nodes[0].entries or [] if name == HOME}
    inside = names[HOME].entries or [] if names else []
    for _, node in inside:
        if node.path == MANIFEST and stat.S_ISREG(node.mode):
            node.size = node.disk_bytes = MANIFEST_ENTRY * len(nodes)


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
    if node.entries is not None and node.links > MAX_LINKS:
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


def _walk(root: bytes, epoch: int) -> Iterator[Node]:
    """Directories in pre-order, each directory's own entries together."""
    top = _node(b"", ROOT_INODE, ROOT_INODE, os.lstat(root), epoch)
    yield top
    number = FIRST_INODE
    linked: dict[tuple[int, int], Node] = {}
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        below = []
        prefix = directory.path + b"/" if directory.path else b""
        names: list[tuple[bytes, Node]] = []
        for name, status in _list(root, directory):
            several = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
            if several and (first := linked.get((status.st_dev, status.st_ino))):
                first.links += 1
                names.append((name, first))
                continue
            node = _node(prefix + name, number, directory.number, status, epoch)
            number += 1
            names.append((name, node))
            if several:
                linked[status.st_dev, status.st_ino] = node
            elif node.entries is not None:
                below.append(node)
            yield node
        directory.entries = names
        directory.links += len(below)
        waiting.extend(reversed(below))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector: a fifth of the walk's time, and no cycles are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _list(root: bytes, directory: Node) -> list[tuple[bytes, os.stat_result]]:
    with os.scandir(root + b"/" + directory.path) as entries:
        listed = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    if directory.number == ROOT_INODE:
        listed = [pair for pair in listed if not _is_lost_and_found(*pair)]
    listed.sort(key=itemgetter(0))
    return listed


def _is_lost_and_found(name: bytes, status: os.stat_result) -> bool:
    if name != LOST_AND_FOUND:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise ImageError("cannot seal /lost+found", why="ext3 needs the name for a directory")
    return True


def _node(path: bytes, number: int, parent: int, status: os.stat_result, epoch: int) -> Node:
    directory = stat.S_ISDIR(status.st_mode)
    # Whole seconds: all that tar, cpio and SOURCE_DATE_EPOCH know, so a tree
    # gives the same image after a passage through any of them.
    seconds = status.st_mtime_ns // 1_000_000_000
    node = Node(
        path,
        number,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        seconds if seconds < epoch else epoch,
        0 if directory else status.st_size,
        status.st_rdev,
        status.st_blocks * 512,
        parent,
    )
    if directory:
        # The root holds lost+found, which the walk leaves out.
        node.entries, node.links = [], 3 if number == ROOT_INODE else 2
    return node
