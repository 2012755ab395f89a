"""What each inode holds, read from the tree once and written into the volume.

Directories first, so that listing an image reads one stretch of it; then
everything else in the order of the inventory. Each inode is described as it is
written; the digest is made of the descriptions and the data.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from singbuild.errors import ImageError
from singbuild.ext3 import records
from singbuild.ext3.attributes import Attribute, attributes, want_attribute
from singbuild.ext3.geometry import (
    BLOCK,
    INODE,
    JOURNAL_INODE,
    LOST_INODE,
    POINTERS,
    RESIZE_INODE,
    ROOT_INODE,
    Geometry,
)
from singbuild.ext3.node import MANIFEST, MANIFEST_ENTRY, Node, shown
from singbuild.ext3.writer.blockmap import DIRECT, BlockMap, direct_map
from singbuild.ext3.writer.description import closed, fact, node_fact
from singbuild.ext3.writer.directory import Name, directory, lost_and_found
from singbuild.ext3.writer.filedata import PIECE, Files, blocks_of, changed, data_runs, pieces
from singbuild.ext3.writer.short_files import Short, read_ahead
from singbuild.ext3.writer.volume import Run, Volume

FAST_LINK = 60  # shorter targets live in the inode
_REGULAR = stat.S_IFREG >> 12
_PER_BLOCK = BLOCK // INODE

Mapped = tuple[bytes, int, int, int]  # i_block, blocks in use, size in bytes, flags


class Contents:
    """Writes a tree's inodes into a volume.

    root: the tree. seed: the directories' hash seed. on_bytes: called with the
    number of bytes of file data read since the last call.
    """

    def __init__(
        self,
        root: bytes,
        volume: Volume,
        geometry: Geometry,
        seed: bytes,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._root, self._volume, self._geometry, self._seed = root, volume, geometry, seed
        self._files, self._on_bytes = Files(root), on_bytes
        self._facts: list[bytes] = []  # of the inode at hand
        self._names: dict[int, bytes] = {}  # by directory
        self._manifest: list[Run] = []
        self.journal_map = b""

    def write(self, nodes: Sequence[Node], epoch: int) -> None:
        """Everything but superblocks, descriptors and bitmaps."""
        with self._read_ahead(nodes[1:]) as inodes:
            own = self._own_inodes(epoch)
            listed = {n.number: self._directory(n) for n in nodes if n.entries is not None}
            own[ROOT_INODE] = self._any(nodes[0], listed)
            table = InodeTable(self._volume, self._geometry)
            table.add([own.get(number, bytes(INODE)) for number in range(1, LOST_INODE + 1)])
            with self._files:
                for some in inodes:
                    table.add([self._short(*each) or self._any(each[0], listed) for each in some])
                    self._on_bytes(sum([node.size for node, _, _ in some if node.size < PIECE]))
            table.close()

    def _read_ahead(self, nodes: Sequence[Node]) -> AbstractContextManager[Iterable[list[Short]]]:
        return read_ahead(self._root, nodes)

    def digests(self) -> list[bytes]:
        """Wait until all data is written; the SHA-256 of each inode, in the inventory's order."""
        self._volume.finish()
        return self._volume.digests

    def put_manifest(self, digests: Sequence[bytes]) -> None:
        """Fill the file that the tree has for it, if it has."""
        content = b"".join(digest[:MANIFEST_ENTRY] for digest in digests)
        for start, count in self._manifest:
            part, content = content[: count * BLOCK], content[count * BLOCK :]
            self._volume.put(start, part.ljust(count * BLOCK, b"\0"))
        self._volume.finish()

    def _short(self, node: Node, data: bytes | memoryview, digest: bytes) -> bytes:
        """Write a file that was read ahead; return its inode, or b"" if it must go the long way."""
        if not digest:
            return b""
        count = -(-node.size // BLOCK)
        start = self._volume.append_short(data, count, digest)
        if not start:
            return b""
        mapped = direct_map(start, count)
        return records.inode(
            node.mode, node.uid, node.gid, node.mtime, node.size, node.links, count, mapped
        )

    def _any(self, node: Node, listed: dict[int, Mapped]) -> bytes:
        """Read and write what any node holds; its inode."""
        self._facts = [node_fact(node)]
        try:
            if node.mode >> 12 == _REGULAR and node.path != MANIFEST:
                (mapped, blocks, size, flags), found = self._regular(node)
            else:
                mapped, blocks, size, flags = self._special(node, listed)
                found = self._attributes(node)
        except OSError as error:
            why = error.strerror or str(error)
            raise ImageError(f"cannot seal {shown(node.path)}", why=why) from error
        block, inside = 0, b""
        if found:
            for name, value in found:
                self._facts.append(fact(b"x", len(name), len(value)) + name + value)
            block, inside = self._attribute_block(node, found)
            blocks += block > 0
        self._volume.end(closed(b"".join(self._facts)))
        return records.inode(
            node.mode, node.uid, node.gid, node.mtime, size, node.links,
            blocks, mapped, flags, block, inside,
        )  # fmt: skip

    def _path(self, node: Node) -> bytes:
        return self._root + b"/" + node.path

    # Regular files

    def _regular(self, node: Node) -> tuple[Mapped, list[Attribute]]:
        fd = self._files.opened(node)
        try:
            if node.size >= PIECE:
                mapped = self._data(node, pieces(node, fd))
                self._on_bytes(node.size)
            else:
                data = os.read(fd, node.size + 1)
                if len(data) != node.size:
                    raise changed(node)
                mapped = self._data(node, [(0, data)])
            return mapped, _attributes(fd)
        finally:
            os.close(fd)

    def _data(self, node: Node, parts: Iterable[tuple[int, bytes]]) -> Mapped:
        """Copy a file's blocks, blocks of zeros left out; note where data lies."""
        blocks = BlockMap(self._volume.take_one, self._volume.put)
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
        return blocks.close(), blocks.blocks, node.size, 0

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

    def _special(self, node: Node, listed: dict[int, Mapped]) -> Mapped:
        if node.entries is not None:
            self._facts.append(self._names.pop(node.number))
            return listed[node.number]
        if stat.S_ISREG(node.mode):
            return self._reserved(node)
        if stat.S_ISLNK(node.mode):
            return self._symlink(self._target(node))
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            return records.device_map(os.major(node.device), os.minor(node.device)), 0, 0, 0
        return bytes(60), 0, 0, 0

    def _reserved(self, node: Node) -> Mapped:
        """Leave the manifest's blocks free until its content is known."""
        self._manifest = self._volume.take(-(-node.size // BLOCK))
        return *self._map(self._manifest), node.size, 0

    def _target(self, node: Node) -> bytes:
        return os.readlink(self._path(node))  # noqa: PTH115 - a target is bytes, not a Path

    def _symlink(self, target: bytes) -> Mapped:
        self._facts.append(fact(b"l", 0, len(target)) + target)
        if len(target) < FAST_LINK:
            return target, 0, len(target), 0
        block = self._volume.take_one()
        self._volume.put(block, target.ljust(BLOCK, b"\0"))
        return direct_map(block, 1), 1, len(target), 0

    def _directory(self, node: Node) -> Mapped:
        entries = node.entries or []
        names = [(name, child.number, child.mode) for name, child in entries]
        self._note_names(node, names)
        if node.number == ROOT_INODE:
            names.append((b"lost+found", LOST_INODE, stat.S_IFDIR))
        content, flags = directory(node.number, node.parent, names, self._seed)
        return *self._put_blocks(content), len(content), flags

    def _note_names(self, node: Node, names: list[Name]) -> None:
        joined = b"/".join([*(name for name, _, _ in names), b""])
        numbers = struct.pack(f"<{len(names)}I", *(number for _, number, _ in names))
        self._names[node.number] = fact(b"n", node.number, len(names)) + numbers + joined

    def _put_blocks(self, content: bytes) -> tuple[bytes, int]:
        """Write metadata blocks; their map, and how many blocks they take."""
        runs = self._volume.take(len(content) // BLOCK)
        done = 0
        for start, count in runs:
            self._volume.put(start, content[done * BLOCK : (done + count) * BLOCK])
            done += count
        return self._map(runs)

    def _map(self, runs: Iterable[Run]) -> tuple[bytes, int]:
        """Map blocks in their order; the map, and how many blocks that takes."""
        blocks = BlockMap(self._volume.take_one, self._volume.put)
        done = 0
        for start, count in runs:
            blocks.add(done, start, count)
            done += count
        return blocks.close(), blocks.blocks

    # Extended attributes

    def _attributes(self, node: Node) -> list[Attribute]:
        return _attributes(self._path(node))

    def _attribute_block(self, node: Node, found: list[Attribute]) -> tuple[int, bytes]:
        """Write what the inode has no room for; that block's number or 0, and the rest."""
        try:
            inside, outside = attributes(found)
        except ValueError as error:
            raise ImageError(f"cannot seal {shown(node.path)}", why=str(error)) from error
        if not outside:
            return 0, inside
        block = self._volume.take_one()
        self._volume.put(block, outside)
        return block, inside

    # The file system's own files

    def _own_inodes(self, epoch: int) -> dict[int, bytes]:
        return {
            RESIZE_INODE: self._resize_inode(epoch),
            JOURNAL_INODE: self._journal_inode(epoch),
            LOST_INODE: self._lost_and_found(epoch),
        }

    def _resize_inode(self, epoch: int) -> bytes:
        """Descriptor blocks kept free, mapped as indirect blocks: how ext3 grows while mounted."""
        geometry = self._geometry
        block = self._volume.take_one()
        self._volume.put(block, records.resize_pointers(geometry))
        for reserved in geometry.reserved():
            self._volume.put(reserved, records.backup_pointers(geometry, reserved))
        blocks = 1 + geometry.reserved_blocks * (1 + len(geometry.backups))
        size = (DIRECT + POINTERS + POINTERS**2) * BLOCK
        mapped = records.pack_pointers([0] * 13 + [block])[:60]
        return records.inode(0o100600, 0, 0, epoch, size, 1, blocks, mapped)

    def _journal_inode(self, epoch: int) -> bytes:
        runs = self._volume.take(self._geometry.journal)
        self._volume.put(runs[0][0], records.journal_superblock(self._geometry.journal))
        self.journal_map, blocks = self._map(runs)
        size = self._geometry.journal * BLOCK
        return records.inode(0o100600, 0, 0, epoch, size, 1, blocks, self.journal_map)

    def _lost_and_found(self, epoch: int) -> bytes:
        content = lost_and_found(LOST_INODE, ROOT_INODE)
        mapped, blocks = self._put_blocks(content)
        return records.inode(0o040700, 0, 0, epoch, len(content), 2, blocks, mapped)


class InodeTable:
    """The groups' inode tables, filled from inode 1 on."""

    def __init__(self, volume: Volume, geometry: Geometry) -> None:
        self._volume, self._geometry = volume, geometry
        self._written = 0
        self._held: list[bytes] = []

    def add(self, inodes: list[bytes]) -> None:
        """Take the next inodes, and write those that fill blocks."""
        self._held += inodes
        self._write(len(self._held) // _PER_BLOCK * _PER_BLOCK)

    def close(self) -> None:
        """Write the rest."""
        self._write(len(self._held))

    def _write(self, count: int) -> None:
        while count:
            group, index = divmod(self._written, self._geometry.inodes_per_group)
            some = min(count, self._geometry.inodes_per_group - index)
            data = b"".join(self._held[:some])
            block = self._geometry.tables_start(group) + 2 + index // _PER_BLOCK
            self._volume.put(block, data.ljust(-(-some // _PER_BLOCK) * BLOCK, b"\0"))
            del self._held[:some]
            self._written += some
            count -= some


def _attributes(where: bytes | int) -> list[Attribute]:
    """Those that belong to the tree, sorted. where: an open file, or a path not to be followed."""
    follow = isinstance(where, int)  # listxattr insists on it for an open file
    try:
        names = os.listxattr(where) if follow else os.listxattr(where, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return []
        raise
    if not names:
        return []
    return sorted(
        (os.fsencode(name), os.getxattr(where, name, follow_symlinks=follow))
        for name in names
        if want_attribute(os.fsencode(name))
    )
