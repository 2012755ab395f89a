"""The inodes of a tree in the order of their numbers, as records in a spool.

Whatever the number of files, they take the memory of the directory at work, and 8 bytes for each
inode that may have further names. Records follow each other as the walk met the names:
directories in pre-order, each one's own names together and sorted. So one passage over the
records gives all paths, and the names of a directory are one stretch of them.
"""

import hashlib
import stat
import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from singbuild.ext3.geometry import (
    BLOCK,
    FAST_LINK,
    FIRST_INODE,
    MAX_FILE_BYTES,
    MAX_LINKS,
    ROOT_INODE,
    indirect_blocks,
)
from singbuild.ext3.node import MANIFEST, MANIFEST_ENTRY, Node
from singbuild.ext3.number_map import NumberMap
from singbuild.ext3.records import MIN_TIME
from singbuild.ext3.writer.spool import Spool

Name = tuple[bytes, int, int]  # name, inode number, mode

_SMALL = 48 << 10  # bytes: a file without indirect blocks
_PIECE = 1 << 20  # bytes of records read at a time
# Number, mode, uid, gid, mtime, size, device; links, 0 in the record of a further name; offset
# and bytes of the records of a directory's names; length of the name, which follows.
_RECORD = struct.Struct("<IIIIqQQIQQB")
_MTIME_AT, _SIZE_AT, _LINKS_AT = (struct.calcsize(f"<{f}") for f in ("4I", "4Iq", "4IqQQ"))
_LINKS = struct.Struct("<I")
_LINKS_AND_NAMES = struct.Struct("<IQQ")
_LONGEST = _RECORD.size + 255
# Of a directory, besides: offset of its record, its parent's number, length of its path.
_PLACE = struct.Struct("<QIH")

_Fields = tuple[int, ...]  # of _RECORD


class Status(NamedTuple):
    """What a walk finds under one name: some fields of Node, and two more.

    inode: equal for the names of one inode; 0 for one that has no other name. disk_bytes: what
    the host's file system uses for it: a hint, never content.
    """

    name: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    device: int
    disk_bytes: int


class Nodes:
    """The inodes of a tree; iterating yields them in the order of their numbers, the root first.

    guess: blocks that their content takes, estimated from what stat(2) says. data_bytes: of all
    regular files. fits_ext3: no number of links, size or date is beyond what ext3 can hold.
    directory_numbers: the inode numbers of all directories.
    """

    def __init__(self, *, renumber: bool = True) -> None:
        """Make an empty collection. renumber: number as a seal does, else by ``Status.inode``."""
        self.guess = self.data_bytes = self._count = 0
        self.fits_ext3 = True
        self.directory_numbers = array("I")
        self._renumber = renumber
        self._records, self._places = Spool(), Spool()
        self._offsets = NumberMap()  # of the records of inodes that may have further names
        self._paths = hashlib.sha256()
        self._manifest = 0  # offset of its record

    def __len__(self) -> int:
        return self._count

    @property
    def root(self) -> Node:
        """The first of them."""
        return next(iter(self))

    @property
    def paths_digest(self) -> bytes:
        """The SHA-256 of all paths, in the order of the numbers, with zeros between them."""
        return self._paths.digest()

    def fill(self, root: Status, listings: Iterable[Iterable[Status]]) -> None:
        """Take a tree. listings: of each directory, in pre-order, what is in it, sorted by name."""
        number = ROOT_INODE if self._renumber else root.inode
        waiting = [(self._add(root, b"", number, number), b"", number)]
        for listing in listings:
            directory, path, number = waiting.pop()
            start, names_size = self._records.size, 0
            prefix = path + b"/" if path else b""
            below = []
            paths = [b""]  # of this listing
            for status in listing:
                name, inode, mode, *_ = status
                names_size += len(name) + 12
                if inode and (first := self._offsets.get(inode)):
                    self._add_name(status, first)
                    continue
                paths.append(prefix + name)
                own = FIRST_INODE - 1 + self._count if self._renumber else inode
                offset = self._add(status, prefix + name, own, number)
                if stat.S_ISDIR(mode):
                    below.append((offset, prefix + name, own))
            self._paths.update(b"\0".join(paths))
            # The root holds lost+found, which the walk leaves out.
            links = len(below) + (2 if path else 3)
            row = _LINKS_AND_NAMES.pack(links, start, self._records.size - start)
            self._records.change(directory + _LINKS_AT, row)
            self.fits_ext3 &= links <= MAX_LINKS
            self.guess += 1 + names_size // BLOCK
            waiting.extend(reversed(below))

    def reserve_manifest(self) -> None:
        """Set the size that the manifest will have, if the tree has one: the seal fills it last."""
        if self._manifest:
            size = MANIFEST_ENTRY * self._count
            old = self._fields(self._manifest)[5]
            self._records.change(self._manifest + _SIZE_AT, struct.pack("<Q", size))
            self.data_bytes += size - old
            self.guess += _blocks(stat.S_IFREG, size, size) - _blocks(stat.S_IFREG, old, old)

    def __iter__(self) -> Iterator[Node]:
        make = Node._make
        fields = self._fields(0)
        yield make((b"", fields[0], *fields[:8]))
        waiting = [(b"", fields)]
        while waiting:
            path, fields = waiting.pop()
            number, prefix = fields[0], path + b"/" if path else b""
            below = []
            for name, row in self._rows(fields[8], fields[9]):
                if row[7]:
                    yield make((prefix + name, number, *row[:8]))
                    if row[9]:
                        below.append((prefix + name, row))
            waiting.extend(reversed(below))

    def directories(self) -> Iterator[tuple[Node, list[Name]]]:
        """Yield the directories in the order of their numbers, with their names, sorted."""
        at = 0
        while at < self._places.size:
            offset, parent, length = _PLACE.unpack(self._places.read(at, _PLACE.size))
            path = self._places.read(at + _PLACE.size, length)
            at += _PLACE.size + length
            fields = self._fields(offset)
            rows = self._rows(fields[8], fields[9])
            node = Node(path, parent, *fields[:8])
            yield node, [(name, row[0], row[1]) for name, row in rows]

    def _add(self, status: Status, path: bytes, number: int, parent: int) -> int:
        """Add an inode; return the offset of its record."""
        name, inode, mode, uid, gid, mtime, size, device, disk_bytes = status
        row = _RECORD.pack(number, mode, uid, gid, mtime, size, device, 1, 0, 0, len(name))
        offset = self._records.append(row + name)
        self._count += 1
        self.fits_ext3 &= mtime >= MIN_TIME and size <= MAX_FILE_BYTES
        if stat.S_ISDIR(mode):
            self._places.append(_PLACE.pack(offset, parent, len(path)) + path)
            self.directory_numbers.append(number)
            return offset
        if inode:
            self._offsets.set(inode, offset)
        if stat.S_ISREG(mode):
            self.data_bytes += size
            if path == MANIFEST:
                self._manifest = offset
        self.guess += _blocks(mode, size, disk_bytes)
        return offset

    def _add_name(self, status: Status, first: int) -> None:
        """Add a further name of an inode. first: offset of its record.

        Of its names, some may be recorded with a time later than the epoch, which counts.
        """
        number, mode, _, _, mtime, _, _, links, *_ = self._fields(first)
        if status.mtime > mtime:
            self._records.change(first + _MTIME_AT, struct.pack("<q", status.mtime))
        self._records.change(first + _LINKS_AT, _LINKS.pack(links + 1))
        self.fits_ext3 &= links < MAX_LINKS
        name = status.name
        row = _RECORD.pack(number, mode, 0, 0, 0, 0, 0, 0, 0, 0, len(name))
        self._records.append(row + name)

    def _fields(self, offset: int) -> _Fields:
        return _RECORD.unpack(self._records.read(offset, _RECORD.size))

    def _rows(self, start: int, size: int) -> Iterator[tuple[bytes, _Fields]]:
        """Yield names and fields of the records in a stretch. start: offset, size: bytes."""
        end = start + size
        while start < end:
            piece = self._records.read(start, min(_PIECE, end - start))
            start += len(piece)
            # In all pieces but the last, the record at the end may be cut off.
            last, at = len(piece) - (_LONGEST if start < end else 1), 0
            while at <= last:
                fields = _RECORD.unpack_from(piece, at)
                name_at = at + _RECORD.size
                at = name_at + fields[10]
                yield piece[name_at:at], fields
            start -= len(piece) - at


def _blocks(mode: int, size: int, disk_bytes: int) -> int:
    """Estimate the blocks of the content of anything but a directory."""
    if not stat.S_ISREG(mode):
        return size >= FAST_LINK
    if size <= _SMALL:
        return -(-size // BLOCK)
    blocks = -(-min(size, disk_bytes) // BLOCK)
    return blocks + indirect_blocks(blocks)
