"""An image's tree as a tar archive, read from the file: no root, no mount.

The archive is in the POSIX.1-2001 (pax) format: owners as numbers, extended attributes as
SCHILY.xattr, holes as GNU.sparse 1.0, hard links after the name that has the data. Equal
trees give equal bytes. ``tarfile`` packs the headers: what it is told here is checked, unlike
what ``read`` has to take.
"""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator

from singbuild.errors import ImageError
from singbuild.file_tree import DIRECTORY, REGULAR, SYMLINK, Entry, FileTree, Segment

_BLOCK = tarfile.BLOCKSIZE
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def archive(
    image: FileTree, leave_out: Callable[[bytes], bool] = lambda _: False
) -> Iterator[bytes]:
    """Yield the tree of an image as one uncompressed tar archive, in pieces of any size.

    leave_out: says of a path whether it is left out. Sockets always are: no tar format knows
    them. Raises DamagedImage.
    """
    yield from _archived(image, (each for each in image.walk() if not leave_out(each.path)), bytes)


def _archived(
    image: FileTree,
    entries: Iterable[Entry],
    renamed: Callable[[bytes], bytes],
    changed: Callable[[tarfile.TarInfo], None] = lambda _: None,
) -> Iterator[bytes]:
    first: dict[int, bytes] = {}  # of inodes with several names
    for entry in entries:
        info = _header(image, entry)
        if info is None:
            continue
        info.name = _text(renamed(entry.path)) or "."
        changed(info)
        if entry.inode.kind != DIRECTORY and entry.inode.links > 1:
            if path := first.get(entry.inode.number):
                target = _text(renamed(path))
                # Attributes are the inode's, and came with its first name.
                info.type, info.linkname, info.pax_headers = tarfile.LNKTYPE, target, {}
                yield packed(info)
                continue
            first[entry.inode.number] = entry.path
        if entry.inode.kind == REGULAR:
            yield from _file(image, entry, info)
        else:
            yield packed(info)
    yield bytes(2 * _BLOCK)


def hashed(pieces: Iterable[bytes], total: hashlib._Hash) -> Iterator[bytes]:
    """Yield pieces that go into a digest on their way."""
    for piece in pieces:
        total.update(piece)
        yield piece


def subtree(
    image: FileTree,
    entry: Entry,
    name: str,
    *,
    changed: Callable[[tarfile.TarInfo], None] = lambda _: None,
    leave_out: Callable[[str], bool] | None = None,
    top: bool = True,
) -> Iterator[bytes]:
    """Yield what is at and below an entry of an image as such an archive, under another name.

    changed: changes each header; leave_out: says of a path whether it is left out; top: whether
    the entry itself is in it. Hard links stay within it. Raises DamagedImage.
    """

    def is_wanted(path: bytes) -> bool:
        if path == entry.path:
            return top
        return not (leave_out and leave_out(path.decode("utf-8", "surrogateescape")))

    entries = (each for each in image.walk(entry) if is_wanted(each.path))
    yield from moved(image, entries, entry, name, changed)


def moved(
    image: FileTree,
    entries: Iterable[Entry],
    top: Entry,
    name: str,
    changed: Callable[[tarfile.TarInfo], None],
) -> Iterator[bytes]:
    """Yield entries at and below ``top`` as such an archive; ``name`` is that of ``top`` in it."""
    above, prefix = top.path, _bytes(name).strip(b"/")

    def renamed(path: bytes) -> bytes:
        below = path[len(above) :].strip(b"/")
        return b"/".join(filter(None, (prefix, below)))

    yield from _archived(image, entries, renamed, changed)


def one_file(
    name: str, pieces: Iterable[bytes], size: int, changed: Callable[[tarfile.TarInfo], None]
) -> Iterator[bytes]:
    """Yield an archive of one file, of mode 0644 unless ``changed`` says otherwise.

    pieces: its content; size: of all of them, bytes.
    """
    info = tarfile.TarInfo(name.strip("/"))
    info.size, info.mode = size, 0o644
    changed(info)
    yield packed(info)
    yield from pieces
    yield bytes(-size % _BLOCK + 2 * _BLOCK)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _header(image: FileTree, entry: Entry) -> tarfile.TarInfo | None:
    inode = entry.inode
    kind = _TYPES.get(stat.S_IFMT(inode.mode))
    if kind is None:
        return None
    info = tarfile.TarInfo(_text(entry.path) or ".")
    info.type, info.mode = kind, stat.S_IMODE(inode.mode)
    info.uid, info.gid, info.mtime = inode.uid, inode.gid, inode.mtime
    if inode.kind == SYMLINK:
        info.linkname = _text(image.target(entry))
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = inode.device
    attributes = image.attributes(entry)
    info.pax_headers = {_key(name, entry): _text(value) for name, value in attributes}
    return info


def _key(name: bytes, entry: Entry) -> str:
    """Return the pax record of an attribute. Raises ImageError: records have names in UTF-8."""
    try:
        return f"SCHILY.xattr.{name.decode()}"
    except UnicodeDecodeError as error:
        raise ImageError(
            f"{entry.shown}: has an attribute that no tar archive can hold",
            why=f"Its name is {name!r}, which is not UTF-8.",
        ) from error


def _file(image: FileTree, entry: Entry, info: tarfile.TarInfo) -> Iterator[bytes]:
    size = entry.inode.size
    segments = image.segments(entry)
    stored = sum(length for _, length in segments)
    if stored == size:
        info.size = size
        yield packed(info)
    else:
        # Of a single hole GNU tar notes its end; others read no empty table.
        table = sparse_table(segments or [(size, 0)])
        info.size = len(table) + stored
        info.pax_headers = {
            **info.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": info.name,
            "GNU.sparse.realsize": str(size),
        }
        yield packed(info)
        yield table
    rest = stored
    for _, data in image.data(entry):
        rest -= len(data)
        if rest < 0:
            break  # what follows would be read as headers
        yield data
    if rest:
        raise ImageError(f"{entry.shown} was changed while it was read")
    yield bytes(-stored % _BLOCK)


def sparse_table(segments: list[Segment]) -> bytes:
    """Return the map of a sparse file: GNU tar, "Storing Sparse Files", PAX 1.0."""
    numbers = [len(segments), *(number for segment in segments for number in segment)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK, b"\0")


def packed(info: tarfile.TarInfo) -> bytes:
    """Return a header as an archive has it."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
