"""Images as cpio archives ("newc", cpio(5)), as a kernel takes them for its first root."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from singbuild import Entry, Facts, FileTree, Format, ImageError, PlainInode, Reporter, hookimpl

MAGIC, END = b"070701", b"TRAILER!!!"
MOST = 1 << 20  # entries
DirEntry = tuple[bytes, int, int]  # as FileTree.names describes it


@hookimpl
def singbuild_format() -> Format:
    return Format("a cpio archive, for a kernel's first root file system", (".cpio",))


@hookimpl
def singbuild_recognise(head: bytes) -> bool:
    return head.startswith(MAGIC)


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    return Cpio(path)


@hookimpl
def singbuild_write(tree: FileTree, target: Path, report: Reporter) -> bool:
    with target.open("r+b") as file:
        numbers: dict[int, int] = {}
        lost = 0
        for entry in tree.walk():
            lost += bool(tree.attributes(entry))
            number = numbers.setdefault(entry.inode.number, len(numbers) + 1)
            _write(file, tree, entry, number)
        _put(file, [0] * 13, END, [])
    if lost:
        report.warn(f"cpio holds no extended attributes; those of {lost} files are left out")
    return True


def _write(file: BinaryIO, tree: FileTree, entry: Entry, number: int) -> None:
    inode = entry.inode
    pieces: Iterable[bytes] = []
    size = 0
    if inode.kind == "file":
        pieces, size = tree.stream(entry), inode.size
    elif inode.kind == "symbolic link":
        target = tree.target(entry)
        pieces, size = [target], len(target)
    if size >= 1 << 32:
        raise ImageError(f"{entry.shown} is larger than 4 GiB, which cpio cannot hold")
    major, minor = inode.device
    fields = [number, inode.mode, inode.uid, inode.gid, inode.links, inode.mtime, size, 0, 0]
    _put(file, [*fields, major, minor, 0, 0], entry.path or b".", pieces)


def _put(file: BinaryIO, fields: list[int], name: bytes, pieces: Iterable[bytes]) -> None:
    fields[11] = len(name) + 1
    file.write(MAGIC + b"".join(b"%08X" % (each & 0xFFFFFFFF) for each in fields))
    file.write(name + b"\0")
    file.write(bytes(-file.tell() % 4))
    file.writelines(pieces)
    file.write(bytes(-file.tell() % 4))


class Node(NamedTuple):
    inode: PlainInode
    offset: int


class Cpio(FileTree):
    """An open archive: its headers are read at once, its data when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._nodes: dict[bytes, Node] = {}
        self._below: dict[bytes, list[bytes]] = {}
        try:
            self._read_all()
        except (ValueError, OSError) as error:
            self._file.close()
            raise self.damaged("a header", error) from error

    def close(self) -> None:
        self._file.close()

    @property
    def facts(self) -> Facts:
        size = self.path.stat().st_size
        return Facts("cpio archive", size, size)

    def root(self) -> Entry:
        return Entry(b"", self._nodes[b""].inode)

    def names(self, directory: Entry, _parent: int | None = None) -> tuple[DirEntry, ...]:
        names = self._below.get(directory.path, [])
        return tuple(sorted((each.rpartition(b"/")[2], 0, 0) for each in names))

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        path = directory.path + b"/" + name_row[0] if directory.path else name_row[0]
        return Entry(path, self._nodes[path].inode)

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        size, at = entry.inode.size, 0
        while at < size:
            self._file.seek(self._nodes[entry.path].offset + at)
            piece = self._file.read(min(1 << 20, size - at))
            if not piece:
                raise self.damaged(entry.shown, "the file ends within it")
            yield at, piece
            at += len(piece)

    def target(self, entry: Entry) -> bytes:
        return b"".join(piece for _, piece in self.data(entry))

    def attributes(self, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
        return ()

    def _read_all(self) -> None:
        end = os.fstat(self._file.fileno()).st_size
        at = 0
        while len(self._nodes) < MOST:
            self._file.seek(at)
            head = self._file.read(110)
            if head[:6] != MAGIC or len(head) != 110:
                raise ValueError(f"there is none at byte {at}")
            number, mode, uid, gid, links, mtime, size, _, _, major, minor, length, _ = (
                int(head[at : at + 8], 16) for at in range(6, 110, 8)
            )
            name = self._file.read(length)
            if not 1 < length <= 4096 or len(name) != length or name[-1]:
                raise ValueError(f"a name of {length} bytes at byte {at}")
            offset = at + 110 + length
            offset += -offset % 4
            if offset + size > end:
                raise ValueError(f"byte {offset + size} lies outside the file")
            if name[:-1] == END:
                break
            inode = PlainInode(number, mode, uid, gid, size, mtime, links, (major, minor), size)
            self._add(name[:-1], Node(inode, offset))
            at = offset + size
            at += -at % 4
        if self._nodes.get(b"") is None:
            raise ValueError("there is none of the root directory")

    def _add(self, name: bytes, node: Node) -> None:
        path = b"" if name == b"." else name
        above, _, last = path.rpartition(b"/")
        if path in self._nodes or node.inode.mode >> 12 not in (1, 2, 4, 6, 8, 10, 12):
            raise ValueError(f"{name!r} is there twice, or of no known type")
        if path:
            parent = self._nodes.get(above)
            if parent is None or parent.inode.kind != "directory" or last in (b"", b".", b".."):
                raise ValueError(f"{name!r} is in no directory")
            self._below.setdefault(above, []).append(path)
        self._nodes[path] = node
