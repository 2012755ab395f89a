"""A view of a tree without what a format cannot hold; its manifest has the digests of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from singbuild.contract import Reporter
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.node import MANIFEST
from singbuild.ext3.writer.filesystem import manifest_blocks, tree_digests
from singbuild.ext3.writer.image_reader import ImageReader, tree_nodes
from singbuild.file_tree import KINDS, DirEntry, Entry, Facts, FileTree, PlainInode

_SOCKET = 0o14
_ACL = b"system."
_LATEST = (1 << 32) - 1  # seconds since 1970, what 32 bits hold


def without(
    tree: FileTree, report: Reporter, kind: str, *, sockets: bool = False, packed: bool = False
) -> FileTree:
    """Return the tree without what an image of this kind cannot hold, and warn of each sort.

    sockets: it holds none (no tar archive does); packed: it holds neither ACLs nor dates before
    1970 or after 2106, as squashfs. What lacks nothing is returned as it is.
    """
    first: dict[str, str] = {}  # path of what is left out, by sort
    counts = Counter[str]()
    for entry in tree.walk():
        for what in _losses(tree, entry, sockets=sockets, packed=packed):
            first.setdefault(what, entry.shown)
            counts[what] += 1
    for what, path in first.items():
        more = f" and {counts[what] - 1:,} more" if counts[what] > 1 else ""
        report.warn(f"{kind} holds no {what}, left out: {path}{more}")
    return _Without(tree, sockets=sockets, packed=packed) if first else tree


def _losses(tree: FileTree, entry: Entry, *, sockets: bool, packed: bool) -> Iterator[str]:
    """Yield what such an image does not hold of an entry."""
    if sockets and entry.inode.kind == KINDS[_SOCKET]:
        yield "sockets"
    elif packed and not 0 <= entry.inode.mtime <= _LATEST:
        yield "dates outside 1970 to 2106"
    if packed and any(name.startswith(_ACL) for name, _ in tree.attributes(entry)):
        yield "access control lists"


class _Without(FileTree):
    """A view of a tree. sockets, packed: what it leaves out, as ``without`` has it."""

    def __init__(self, tree: FileTree, *, sockets: bool, packed: bool) -> None:
        self.path, self._tree, self._sockets, self._packed = tree.path, tree, sockets, packed
        self.counts_links = tree.counts_links
        self._changed: dict[bytes, Entry] = {}  # the tree's own entries, of those shown changed
        self._manifest: bytes | None = None
        entry = tree.find(MANIFEST, follow=False)
        if entry and entry.inode.mode >> 12 == 0o10:
            nodes = tree_nodes(self)
            nodes.reserve_manifest()
            digests = tree_digests(nodes, ImageReader(self)).digests
            self._manifest = b"".join(manifest_blocks(digests))

    def close(self) -> None:
        """Leave the tree to its owner."""

    @property
    def facts(self) -> Facts:
        """As the tree's."""
        return self._tree.facts

    def root(self) -> Entry:
        """Return the root directory."""
        return self._shown(self._tree.root())

    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names, sorted, without those of sockets if the format has none."""
        own = self._own(directory)
        return tuple(each for each in self._tree.names(own, parent) if self._is_held(own, each))

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of what ``names`` found in a directory."""
        return self._shown(self._tree.named(self._own(directory), name_row))

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data."""
        if self._manifest is not None and entry.path == MANIFEST:
            return iter([(0, self._manifest)])
        return self._tree.data(self._own(entry))

    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""
        return self._tree.target(self._own(entry))

    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        """Return extended attributes, sorted, without ACLs if the format has none."""
        values: Sequence[Attribute] = self._tree.attributes(self._own(entry))
        return tuple(each for each in values if not (self._packed and each[0].startswith(_ACL)))

    def _is_held(self, directory: Entry, name_row: DirEntry) -> bool:
        if not self._sockets or name_row[2] not in (0, _SOCKET):
            return True
        return self._tree.named(directory, name_row).inode.kind != KINDS[_SOCKET]

    def _own(self, entry: Entry) -> Entry:
        return self._changed.get(entry.path, entry)

    def _shown(self, entry: Entry) -> Entry:
        inode = entry.inode
        size = inode.size
        if self._manifest is not None and entry.path == MANIFEST:
            size = len(self._manifest)
        mtime = min(max(inode.mtime, 0), _LATEST) if self._packed else inode.mtime
        if (size, mtime) == (inode.size, inode.mtime):
            return entry
        self._changed[entry.path] = entry
        identity = inode.number, inode.mode, inode.uid, inode.gid
        return Entry(
            entry.path,
            PlainInode(*identity, size, mtime, inode.links, inode.device, inode.disk_bytes),
        )
