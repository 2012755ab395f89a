"""Writes what each inode of a tree holds into a volume, in one passage over the tree.

Directories first, so that listing an image reads one stretch of it; then
everything else in the order of the inventory. Each inode is described as it is
written; the digest is made of the descriptions and the data.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from singbuild.errors import ImageError
from singbuild.ext3 import records
from singbuild.ext3.attributes import Attribute, attributes
from singbuild.ext3.geometry import (
    BLOCK,
    FAST_LINK,
    INODE,
    JOURNAL_INODE,
    LOST_INODE,
    RESIZE_INODE,
    ROOT_INODE,
    Geometry,
)
from singbuild.ext3.node import MANIFEST, Node, shown
from singbuild.ext3.writer.blockmap import BlockMap, direct_map, map_runs, put_blocks
from singbuild.ext3.writer.description import closed, fact, node_fact
from singbuild.ext3.writer.directory import directory
from singbuild.ext3.writer.filedata import PIECE, blocks_of, data_runs
from singbuild.ext3.writer.inode_table import InodeTable
from singbuild.ext3.writer.nodes import Name, Nodes
from singbuild.ext3.writer.own_files import journal_inode, lost_and_found_inode, resize_inode
from singbuild.ext3.writer.short_files import Batch
from singbuild.ext3.writer.spool import Spool
from singbuild.ext3.writer.tree_reader import TreeReader
from singbuild.ext3.writer.volume import Run, Volume

_DIRECTORY = struct.Struct("<60sIQIQ")  # what Mapped has, and the size of the fact that follows
_REGULAR = stat.S_IFREG >> 12
_MOST_LINKS = 0xFFFF  # that an inode's field holds; a seal refuses over MAX_LINKS before


class Mapped(NamedTuple):
    """Where an inode's content lies. blocks: in use, indirect ones included; size: bytes."""

    i_block: bytes
    blocks: int
    size: int
    flags: int = 0


class Contents:
    """Writes a tree's inodes into a volume.

    seed: the directories' hash seed. on_bytes, on_start: ``write_contents`` says when.
    """

    def __init__(
        self,
        reader: TreeReader,
        volume: Volume,
        geometry: Geometry,
        seed: bytes,
        on_bytes: Callable[[int], None],
        on_start: Callable[[Node, int], None],
    ) -> None:
        self._reader, self._volume, self._geometry = reader, volume, geometry
        self._seed, self._on_bytes, self._on_start = seed, on_bytes, on_start
        self._facts: list[bytes] = []  # of the current inode: see description.py
        self._directories = Spool()  # as _DIRECTORY: how each is mapped, the fact of its names
        self._directory_at = 0  # offset of the next one there
        self._manifest: list[Run] = []
        self.journal_map = b""

    def write(self, nodes: Nodes, epoch: int) -> None:
        """Write all inodes and what they hold; only the manifest's blocks stay empty."""
        # The process that reads ahead is forked first: it works while directories are packed.
        with self._reader.short_files(nodes, self._volume.target) as batches:
            table = InodeTable(self._volume, self._geometry)
            own = self._own_inodes(epoch)
            for node, names in nodes.directories():
                self._directory(node, names)
            own[ROOT_INODE] = self._inode(nodes.root)
            table.add([own.get(number, bytes(INODE)) for number in range(1, LOST_INODE + 1)])
            for batch in batches:
                table.add(self._inodes(batch))
                self._on_bytes(sum([node.size for node in batch.nodes if node.size < PIECE]))
            table.close()

    def put_manifest(self, manifest: Iterable[bytes]) -> None:
        """Fill the file /.singularity.d/manifest, where the tree has one. manifest: its blocks."""
        numbers = (start + n for start, count in self._manifest for n in range(count))
        for number, block in zip(numbers, manifest, strict=False):
            self._volume.put(number, block.ljust(BLOCK, b"\0"))
        self._volume.finish()

    def _own_inodes(self, epoch: int) -> dict[int, bytes]:
        volume, geometry = self._volume, self._geometry
        resize = resize_inode(volume, geometry, epoch)
        journal, self.journal_map = journal_inode(volume, geometry, epoch)
        lost = lost_and_found_inode(volume, epoch)
        return {RESIZE_INODE: resize, JOURNAL_INODE: journal, LOST_INODE: lost}

    def _inodes(self, batch: Batch) -> list[bytes]:
        """Write some nodes; return their inodes, 256 bytes each."""
        inodes, starts = [], []
        for node, digest in zip(batch.nodes, batch.digests, strict=True):
            start = 0
            if digest:
                count = -(-node.size // BLOCK)
                start = self._volume.append_short(count, digest)
                starts.append(start)
            inodes.append(_short_inode(node, start, count) if start else self._inode(node))
        if starts:
            batch.place(starts)
        return inodes

    def _inode(self, node: Node) -> bytes:
        """Read and write what any node holds; return its inode."""
        self._on_start(node, self._volume.next_block)
        self._facts = [node_fact(node)]
        try:
            if node.links > _MOST_LINKS:  # of a tree that is no directory and no ext3
                raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
            if node.mode >> 12 == _REGULAR and node.path != MANIFEST:
                mapped, attributes = self._regular(node)
            else:
                mapped = self._special(node)
                attributes = self._reader.attributes(node)
        except OSError as error:
            why = error.strerror or str(error)
            raise ImageError(f"cannot seal {shown(node.path)}", why=why) from error
        block, inside = self._attributes(node, attributes) if attributes else (0, b"")
        self._volume.end_inode(closed(b"".join(self._facts)))
        return records.inode(
            node.mode, node.uid, node.gid, node.mtime, mapped.size, node.links,
            mapped.blocks + (block > 0), mapped.i_block, mapped.flags, block, inside,
        )  # fmt: skip

    # Regular files

    def _regular(self, node: Node) -> tuple[Mapped, list[Attribute]]:
        attributes, parts = self._reader.file(node)
        mapped = self._data(node, parts)
        if node.size >= PIECE:
            self._on_bytes(node.size)
        return mapped, attributes

    def _data(self, node: Node, parts: Iterable[tuple[int, bytes]]) -> Mapped:
        """Copy a file's blocks, blocks of zeros left out; note where data lies."""
        blocks = BlockMap(self._volume)
        start = end = 0
        for offset, data in parts:
            for first, count in data_runs(data):
                logical = offset // BLOCK + first
                if logical != end:
                    self._note_data(start, end)
                    start = logical
                end = logical + count
                self._append(blocks, logical, blocks_of(data, first, count))
        if start or end * BLOCK < node.size:  # a file without holes notes no ranges
            self._note_data(start, end)
        return Mapped(blocks.close(), blocks.blocks, node.size)

    def _append(self, blocks: BlockMap, logical: int, data: bytes) -> None:
        """Write data as the file's blocks from ``logical`` on."""
        done = 0
        while done < len(data):
            size = min(blocks.reach(logical) * BLOCK, len(data) - done)
            for physical, count in self._volume.append(data[done : done + size]):
                blocks.add(logical, physical, count)
                logical += count
            done += size

    def _note_data(self, start: int, end: int) -> None:
        self._facts.append(fact(b"d", start, end - start))

    # Everything else

    def _special(self, node: Node) -> Mapped:
        if stat.S_ISDIR(node.mode):
            return self._mapped_directory()
        if stat.S_ISREG(node.mode):
            return self._reserved(node)
        if stat.S_ISLNK(node.mode):
            return self._symlink(self._reader.target(node))
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            return Mapped(records.device_map(os.major(node.device), os.minor(node.device)), 0, 0)
        return Mapped(bytes(60), 0, 0)

    def _reserved(self, node: Node) -> Mapped:
        """Leave the manifest's blocks free until its content is known."""
        self._manifest = self._volume.allocate(-(-node.size // BLOCK))
        return Mapped(*map_runs(self._volume, self._manifest), node.size)

    def _symlink(self, target: bytes) -> Mapped:
        self._facts.append(fact(b"l", 0, len(target)) + target)
        if len(target) < FAST_LINK:
            return Mapped(target, 0, len(target))
        return Mapped(*put_blocks(self._volume, target.ljust(BLOCK, b"\0")), len(target))

    def _directory(self, node: Node, names: list[Name]) -> None:
        """Write a directory's blocks; note where they lie, and the fact of its names."""
        self._on_start(node, self._volume.next_block)
        described = _names_fact(node, names)
        if node.number == ROOT_INODE:
            names.append((b"lost+found", LOST_INODE, stat.S_IFDIR))
        content, flags = directory(node.number, node.parent, names, self._seed)
        i_block, blocks = put_blocks(self._volume, content)
        row = _DIRECTORY.pack(i_block, blocks, len(content), flags, len(described))
        self._directories.append(row + described)

    def _mapped_directory(self) -> Mapped:
        """Take the next directory that ``_directory`` noted: both go by the inodes' numbers."""
        at = self._directory_at + _DIRECTORY.size
        row = self._directories.read(self._directory_at, _DIRECTORY.size)
        *mapped, size = _DIRECTORY.unpack(row)
        self._facts.append(self._directories.read(at, size))
        self._directory_at = at + size
        return Mapped(*mapped)

    def _attributes(self, node: Node, pairs: list[Attribute]) -> tuple[int, bytes]:
        """Describe attributes, and write those that the inode has no room for.

        Returns that block's number or 0, and what goes into the inode.
        """
        for name, value in pairs:
            self._facts.append(fact(b"x", len(name), len(value)) + name + value)
        try:
            inside, outside = attributes(pairs)
        except ValueError as error:
            raise ImageError(f"cannot seal {shown(node.path)}", why=str(error)) from error
        if not outside:
            return 0, inside
        block = self._volume.allocate_one()
        self._volume.put(block, outside)
        return block, inside


def _short_inode(node: Node, start: int, count: int) -> bytes:
    """Return the inode of a file whose ``count`` blocks, up to twelve, begin at ``start``."""
    return records.inode(
        node.mode, node.uid, node.gid, node.mtime, node.size, node.links, count,
        direct_map(start, count),
    )  # fmt: skip


def _names_fact(node: Node, names: Sequence[Name]) -> bytes:
    joined = b"/".join([*(name for name, _, _ in names), b""])
    numbers = struct.pack(f"<{len(names)}I", *(number for _, number, _ in names))
    return fact(b"n", node.number, len(names)) + numbers + joined
