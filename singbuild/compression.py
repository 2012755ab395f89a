"""Decompresses gzip, zstd, xz and bzip2 as they arrive, with a bound on what comes out.

isal inflates twice as fast as zlib and has the same interface; both let other threads work.
Sources: RFC 1952 section 2.2 (a file may have many members), RFC 8878 section 3.1 (frames);
tukaani.org/xz/xz-file-format.txt section 2 (streams, and zeros between them).
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from isal import isal_zlib

from singbuild import variables
from singbuild.errors import SourceError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["MAGIC", "inflated", "packing_of", "zstd"]

OUTPUT = 1 << 20  # bytes of one piece
MAGIC = 10  # bytes that tell how something is packed
GZIP, ZSTD, XZ, BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"
_BLOCK_OF_BZIP2 = b"1AY&SY"  # behind the level: an archive's first name may begin with BZh
_XZ_MEMORY = 256 << 20  # bytes: xz -9 takes 65 MiB
_SKIPPABLE = (b"\x2a\x4d\x18",)  # bytes 1 to 3 of a frame without content
_GZIP_HEADER = 31  # "wbits" for a gzip header and the largest window
# isal's stubs take the exception for an instance.
_DAMAGED: tuple[type[Exception], ...] = (
    isal_zlib.error,  # type: ignore[assignment]
    zstd.ZstdError,
    lzma.LZMAError,
)
STREAMS, PER_STREAM = 1000, 256
"""A layer may have 1,000 streams, and one more for each 256 bytes that come out of them."""
RATIO = 200  # bytes out for each byte in
RATIO_FROM = 1 << 30  # bytes out: small layers of zeros are harmless


def inflated(pieces: Iterable[bytes], packing: str) -> Iterator[bytes]:
    """Yield what was packed; packing: gzip, zstd, plain, or "" to find out; then also xz and bzip2.

    Raises SourceError for what is damaged, of another kind than it says, or a bomb.
    """
    source = iter(pieces)
    first = b""
    while len(first) < MAGIC and (piece := next(source, b"")):
        first += piece
    actual = packing_of(first)
    if packing not in ("", actual):
        why = f"It should be {packing}, and is {actual}."
        raise SourceError("it is not what its type says", why=why)
    if actual == "plain":
        yield first
        yield from source
        return
    feed = _Feed(first, source)
    try:
        unpacked = _gunzip(feed) if actual == "gzip" else _unpack(feed, actual, _MAKERS[actual])
        yield from _bounded(feed, unpacked)
    except _DAMAGED as error:
        raise SourceError(f"its {actual} data are damaged", why=str(error)) from error


def packing_of(first: bytes) -> str:
    """Return gzip, zstd, xz, bzip2 or plain. first: the first ``MAGIC`` bytes."""
    if first.startswith(GZIP):
        return "gzip"
    if first.startswith(XZ):
        return "xz"
    if first.startswith(BZIP2) and first[4:].startswith(_BLOCK_OF_BZIP2):
        return "bzip2"
    return "zstd" if first.startswith(ZSTD) or first[1:4] in _SKIPPABLE else "plain"


class _Feed:
    """The compressed input, with counts of what went in and came out."""

    def __init__(self, first: bytes, source: Iterator[bytes]) -> None:
        self.rest, self.source = first, source
        self.bytes_in, self.bytes_out = len(first), 0
        self.streams = 0

    def begin(self) -> None:
        """Count a stream; one that holds nothing costs as much time as one of a thousand bytes."""
        self.streams += 1
        if self.streams > STREAMS + self.bytes_out // PER_STREAM:
            why = f"{self.streams:,} streams hold {self.bytes_out:,} bytes."
            raise SourceError("it is packed so that it takes long to unpack", why=why)

    def more(self) -> bytes:
        """Return what a stream left over, else the next piece, b"" at the end."""
        piece, self.rest = self.rest, b""
        while not piece:
            try:
                piece = next(self.source)
            # No default for next(): the end could not be told from an empty piece, which is
            # passed over.
            except StopIteration:
                return b""
            self.bytes_in += len(piece)
        return piece


def _gunzip(feed: _Feed) -> Iterator[bytes]:
    while piece := feed.more():
        if not (piece := piece.lstrip(b"\0")):
            continue  # gzip allows zeros behind the last member
        feed.begin()
        member = isal_zlib.decompressobj(_GZIP_HEADER)
        while not member.eof:
            if not piece and not (piece := feed.more()):
                raise SourceError("its gzip data are cut off")
            yield member.decompress(piece, OUTPUT)
            piece = member.unconsumed_tail
        feed.rest = member.unused_data


class _Frame(Protocol):
    """What the decompressors of zstd, xz and bzip2 have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


_MAKERS: dict[str, Callable[[], _Frame]] = {
    "zstd": zstd.ZstdDecompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
    "bzip2": bz2.BZ2Decompressor,
}


def _unpack(feed: _Feed, packing: str, make: Callable[[], _Frame]) -> Iterator[bytes]:
    """Yield what frames, streams or blocks hold, one after the other."""
    while piece := feed.more():
        if packing == "xz" and not (piece := piece.lstrip(b"\0")):
            continue  # zeros between streams
        feed.begin()
        frame = make()
        yield _step(frame, piece, packing)
        while not frame.eof:
            piece = feed.more() if frame.needs_input else b""
            if frame.needs_input and not piece:
                raise SourceError(f"its {packing} data are cut off")
            yield _step(frame, piece, packing)
        feed.rest = frame.unused_data


def _step(frame: _Frame, piece: bytes, packing: str) -> bytes:
    try:
        return frame.decompress(piece, OUTPUT)
    except OSError as error:  # bz2's word for damage
        raise SourceError(f"its {packing} data are damaged", why=str(error)) from error


def _bounded(feed: _Feed, pieces: Iterator[bytes]) -> Iterator[bytes]:
    most = variables.count("SINGBUILD_UNPACK_RATIO", RATIO)
    for piece in pieces:
        feed.bytes_out += len(piece)
        if feed.bytes_out > RATIO_FROM and feed.bytes_out > most * feed.bytes_in:
            raise SourceError(
                f"it grows to more than {most} times its size",
                why=f"{feed.bytes_in:,} bytes have become {feed.bytes_out:,}.",
                remedy="If you trust the source, set SINGBUILD_UNPACK_RATIO to a larger number.",
            )
        if piece:
            yield piece
