"""Reads a tar archive as it arrives: which members it has, and their data, without copying it.

Knows the formats that occur in layers and exports: v7, ustar, GNU (long names, base-256
numbers, sparse files) and pax. Sources: POSIX.1-2017 pax(1), "ustar Interchange Format";
the GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
Touches no file system; ``extract`` does.

Not ``tarfile``: it wants a file, where layers are streams that are hashed as they pass, and
bounds neither headers nor maps of holes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from singbuild.errors import SourceError

BLOCK = 512
LONGEST = 1 << 20  # bytes of the headers before one member, or of a map of holes
DIGITS = 20  # of a decimal number
GLOBAL = (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")
"""What a header for all members may say; more would be applied to each of millions."""

_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK)
_REGULAR = b"\0" + b"07"
_BODILESS = b"123456"  # links, devices, directories, fifos: a size there means nothing
_XATTR = b"SCHILY.xattr."

Segment = tuple[int, int]
"""Where data of a sparse file lies: offset and length in bytes."""


@dataclass(slots=True)
class Member:
    """One member of an archive. Names are bytes as they stand there: nothing is checked yet.

    kind: tar's type flag, with ``b"0"`` for every regular file; mtime: nanoseconds
    since 1970; size: bytes of data that follow; real_size: bytes of the file; segments: where
    the data goes in it, None for a file without holes.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    device: tuple[int, int]
    xattrs: dict[str, bytes] = field(default_factory=dict)
    real_size: int = 0
    segments: list[Segment] | None = None


class TarStream:
    """Iterates over an archive's members; ``data`` gives the current one's.

    chunks: the archive in pieces of any size. When the iteration ends, all
    of them have been taken, so that a caller who hashes them has seen the whole.
    Raises SourceError for what is no sound archive.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self._at = 0
        self._rest = 0  # bytes of the current member that nobody took
        self._padding = 0
        self._global = 0  # bytes of the headers for all members

    def __iter__(self) -> Iterator[Member]:
        common: dict[bytes, bytes] = {}
        while (member := self._next(common)) is not None:
            yield member
        for _ in self._chunks:
            pass

    def data(self) -> Iterator[memoryview]:
        """Yield what is left of the current member's data; each piece is valid until the next."""
        while self._rest:
            piece = self._some(self._rest)
            self._rest -= len(piece)
            yield piece

    def _next(self, common: dict[bytes, bytes]) -> Member | None:
        """Return the next member, pax and long-name headers applied to it."""
        own: dict[bytes, bytes] = {}
        size = 0
        while True:
            self._skip(self._rest + self._padding)
            self._rest = self._padding = 0
            header = self._header()
            if header is None:
                return None
            member = _parsed(header)
            if member.kind not in b"xgLK":
                self._finish(member, header, common | own if common else own)
                return member
            size += member.size
            self._global += member.size if member.kind == b"g" else 0
            if max(size, self._global) > LONGEST:
                raise SourceError("the archive is damaged", why=f"headers of {size:,} bytes")
            body = self._body(member)
            if member.kind == b"x":
                own |= _records(body)
            elif member.kind == b"g":
                records = _records(body)
                common |= {key: records[key] for key in GLOBAL if key in records}
            else:
                own[b"path" if member.kind == b"L" else b"linkpath"] = body.split(b"\0")[0]

    def _header(self) -> bytes | None:
        header = self._exactly(BLOCK, at_end=True)
        if not header or header == _ZEROS:
            return None
        # adler32's low half is 1 + the sum of the bytes, modulo 65521; the checksum counts
        # its own eight bytes as blanks.
        field = _number(header[148:156])
        # It takes 1.2 µs, and sum() of 512 bytes 10: for each of a layer's members.
        if (zlib.adler32(header) - 1 - sum(header[148:156]) + 8 * 32 - field) & 0xFFFF and (
            sum(header) - sum(header[148:156]) + 8 * 32 != field
        ):
            raise SourceError("the archive is damaged", why="a header has a wrong checksum")
        return header

    def _finish(self, member: Member, header: bytes, records: dict[bytes, bytes]) -> None:
        """Apply pax records, and learn how much data follows."""
        if records:
            _apply(member, records)
        if member.kind in _REGULAR:
            # Before POSIX.1-1988 a directory was a file whose name ends in a slash.
            member.kind = b"5" if member.name.endswith(b"/") else b"0"
        size = 0 if member.kind in _BODILESS else member.size
        self._rest, self._padding = size, -size % BLOCK
        member.real_size = size
        if member.kind == b"S":
            member.kind, member.segments = b"0", self._old_holes(header)
            member.real_size = _natural(header[483:495])
        elif records and member.kind == b"0":
            self._pax_holes(member, records)
        if member.segments is not None:
            _check_segments(member, self._rest)

    def _body(self, member: Member) -> bytes:
        body = self._exactly(member.size)
        self._skip(-member.size % BLOCK)
        return body

    def _old_holes(self, header: bytes) -> list[Segment]:
        """Read GNU's old map: four entries in the header, more in blocks behind it."""
        segments = _map(header[386:482])
        more = header[482]
        while more:
            block = self._exactly(BLOCK)
            segments += _map(block[:504])
            more = block[504]
            if len(segments) > LONGEST // 24:
                raise SourceError("the archive is damaged", why="a sparse file has too many holes")
        return segments

    def _pax_holes(self, member: Member, records: dict[bytes, bytes]) -> None:
        """GNU's three pax ways to write a sparse file: 0.0 and 0.1 in records, 1.0 in the data."""
        if b"GNU.sparse.name" in records:
            member.name = records[b"GNU.sparse.name"]
        size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        if records.get(b"GNU.sparse.major") == b"1":
            numbers = self._numbers()
        elif b"GNU.sparse.map" in records:
            numbers = [_decimal(word) for word in records[b"GNU.sparse.map"].split(b",")]
        else:
            return
        if len(numbers) % 2:
            raise SourceError("the archive is damaged", why="a sparse file's map makes no sense")
        member.segments = list(zip(numbers[::2], numbers[1::2], strict=True))
        member.real_size = _decimal(size or b"0")

    def _numbers(self) -> list[int]:
        """Read the map at the start of the data: lines of decimal numbers, filled up to a block."""
        lines = self._lines()
        count = 2 * _decimal(next(lines))
        if count > LONGEST // 8:
            raise SourceError("the archive is damaged", why="a sparse file has too many holes")
        return [_decimal(next(lines)) for _ in range(count)]

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        while len(rest) <= DIGITS:
            *lines, rest = (rest + self._block_of_data()).split(b"\n")
            yield from lines
        raise SourceError("the archive is damaged", why=f"{rest[:40]!r} is no number")

    def _block_of_data(self) -> bytes:
        if self._rest < BLOCK:
            raise SourceError("the archive is damaged", why="a sparse file's map is cut off")
        self._rest -= BLOCK
        return self._exactly(BLOCK)

    def _exactly(self, count: int, *, at_end: bool = False) -> bytes:
        """Take ``count`` bytes; at_end: b"" if there are none at all."""
        end = self._at + count
        if end <= len(self._view):
            piece = self._view[self._at : end].tobytes()
            self._at = end
            return piece
        if at_end and not self._is_more():
            return b""
        pieces: list[bytes] = []
        while count:
            some = self._some(count)
            pieces.append(some.tobytes())
            count -= len(some)
        return b"".join(pieces)

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._some(count))

    def _is_more(self) -> bool:
        """Whether there is a byte left to take; waits for it."""
        while self._at == len(self._view):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._view, self._at = memoryview(chunk), 0
        return True

    def _some(self, most: int) -> memoryview:
        """Take at least one byte and at most ``most``, as they lie."""
        if not self._is_more():
            raise SourceError("the archive is cut off")
        piece = self._view[self._at : self._at + most]
        self._at += len(piece)
        return piece


def _parsed(header: bytes) -> Member:
    fields = _HEADER.unpack(header)
    name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix = fields
    name = name.split(b"\0", 1)[0]
    # GNU's magic has a blank where POSIX has a zero, and other things than a prefix behind it.
    if prefix[0] and magic[:6] == b"ustar\0":
        name = prefix.split(b"\0", 1)[0] + b"/" + name
    return Member(
        name,
        kind,
        _number(mode) & 0o7777,
        _natural(uid),
        _natural(gid),
        _natural(size),
        _number(mtime) * 1_000_000_000,
        link.split(b"\0", 1)[0],
        (_number(major), _number(minor)) if kind in b"34" else (0, 0),
    )


def _number(text: bytes) -> int:
    """Read octal digits, or GNU's base 256, whose first bit is set and whose second is the sign."""
    try:
        return int(text.strip(b" \0") or b"0", 8)
    except ValueError:
        if not text[0] & 0x80:
            raise SourceError("the archive is damaged", why=f"{text!r} is no number") from None
    value = int.from_bytes(text, "big") & ((1 << (8 * len(text) - 1)) - 1)
    return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value


def _natural(text: bytes) -> int:
    number = _number(text)
    if number < 0:
        raise SourceError("the archive is damaged", why=f"{number} where a size or an owner is due")
    return number


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > DIGITS:
        raise SourceError("the archive is damaged", why=f"{text[:40]!r} is no number")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    """Read a pax time: seconds with a fraction, maybe negative."""
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    value = _decimal(whole) * 1_000_000_000 + _decimal(fraction[:9].ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def _records(body: bytes) -> dict[bytes, bytes]:
    r"""Read pax records, ``LENGTH KEY=VALUE\n``; sparse 0.0's repeated keys become one map."""
    records: dict[bytes, bytes] = {}
    holes: list[bytes] = []
    at = 0
    while at < len(body):
        length, blank, _ = body[at : at + 20].partition(b" ")
        end = at + _decimal(length)
        key, equals, value = body[at + len(length) + 1 : end - 1].partition(b"=")
        if not (blank and equals) or end > len(body) or body[end - 1 : end] != b"\n":
            raise SourceError("the archive is damaged", why="a pax record has a wrong length")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            holes.append(value)
        else:
            records[key] = value
        at = end
    if holes:
        records[b"GNU.sparse.map"] = b",".join(holes)
    return records


def _apply(member: Member, records: dict[bytes, bytes]) -> None:
    for key, value in records.items():
        if key == b"path":
            member.name = value
        elif key == b"linkpath":
            member.link = value
        elif key == b"size":
            member.size = _decimal(value)
        elif key == b"uid":
            member.uid = _decimal(value)
        elif key == b"gid":
            member.gid = _decimal(value)
        elif key == b"mtime":
            member.mtime = _nanoseconds(value)
        elif key.startswith(_XATTR):
            member.xattrs[key.removeprefix(_XATTR).decode(errors="surrogateescape")] = value


def _map(text: bytes) -> list[Segment]:
    """Read pairs of 12-byte numbers up to the first empty one."""
    pairs = (text[at : at + 24] for at in range(0, len(text), 24))
    return [(_natural(pair[:12]), _natural(pair[12:])) for pair in pairs if pair.strip(b"\0")]


def _check_segments(member: Member, stored: int) -> None:
    """Refuse a map that overlaps, goes backwards, or does not fit the data that follows."""
    end = 0
    for offset, length in member.segments or ():
        if offset < end or offset + length > member.real_size:
            raise SourceError("the archive is damaged", why="a sparse file's map makes no sense")
        end = offset + length
    if sum(length for _, length in member.segments or ()) != stored:
        raise SourceError("the archive is damaged", why="a sparse file's map and data differ")
