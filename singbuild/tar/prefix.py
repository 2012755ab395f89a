"""Moves a tar archive below a directory: every name, and the names that hard links lead to."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

from singbuild.tar.member_path import refused
from singbuild.tar.read import Member, TarStream
from singbuild.tar.write import packed, sparse_table

_BLOCK = tarfile.BLOCKSIZE


def prefixed(chunks: Iterable[bytes], directory: str) -> Iterator[bytes]:
    """Yield an uncompressed archive with ``directory`` before each name. Raises SourceError."""
    prefix = directory.strip("/")
    stream = TarStream(chunks)
    for member in stream:
        info = _info(member, prefix)
        if member.segments is not None:
            table = sparse_table(member.segments)
            info.size = len(table) + member.size
            info.pax_headers = {
                **info.pax_headers,
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": info.name,
                "GNU.sparse.realsize": str(member.real_size),
            }
            yield _header(member, info)
            yield table
        else:
            yield _header(member, info)
        length = 0
        if member.kind == b"0":
            for piece in stream.data():
                length += len(piece)
                yield bytes(piece)
            yield bytes(-length % _BLOCK)
    yield bytes(2 * _BLOCK)


def _header(member: Member, info: tarfile.TarInfo) -> bytes:
    try:
        return packed(info)
    except ValueError as error:  # the numbers of a device have no pax records
        raise refused(member, str(error)) from error


def _info(member: Member, prefix: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_below(prefix, member.name))
    info.type, info.mode = member.kind, member.mode
    info.uid, info.gid, info.mtime = member.uid, member.gid, member.mtime // 1_000_000_000
    info.devmajor, info.devminor = member.device
    info.size = member.real_size if member.kind == b"0" else 0
    link = member.link.decode("utf-8", "surrogateescape")
    info.linkname = _below(prefix, member.link) if member.kind == tarfile.LNKTYPE else link
    info.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in member.xattrs.items()
    }
    return info


def _below(prefix: str, name: bytes) -> str:
    text = name.decode("utf-8", "surrogateescape").lstrip("/")
    return f"{prefix}/{text}" if prefix else text
