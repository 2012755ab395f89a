"""Opens a repository of pacman's at a mirror: REPOSITORY.db, an archive of a text for each package.

The format is repo-add(8)'s; there is no other specification of it.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from singbuild import RecipeKeyError, Source, SourceError
from singbuild.compression import inflated
from singbuild.download import Fetched, NotFoundError, fetch

FILE_LIMIT = 256 << 20  # bytes of REPOSITORY.db; extra's has 8 MB
INDEX_LIMIT = 1 << 30  # bytes, unpacked; extra's has 60 MB
TEXT_LIMIT = 1 << 20  # bytes about one package
FILE = re.compile(r"[A-Za-z0-9@_+][\w@.+:~-]*", re.ASCII)
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """One state of one repository. sha256, content: of its index, as it was checked."""

    name: str
    url: str
    sha256: str
    content: bytes = field(repr=False)

    @property
    def identity(self) -> dict[str, str]:
        """What pins this state."""
        return {"url": self.url, "sha256": self.sha256}


def open_repository(name: str, url: str, source: Source) -> Repository:
    """Fetch what a mirror says of itself. Raises SourceError, RecipeKeyError."""
    try:
        index = fetch(f"{url}/{name}.db", source.cache, report=source.report, size_limit=FILE_LIMIT)
    except NotFoundError as error:
        raise RecipeKeyError(
            "MirrorURL",
            f"MirrorURL: there is no repository {name} at {url}",
            why=error.what,
            remedy="Name the directory that has core/os, or other Repositories.",
        ) from error
    return _as_repository(name, url, index)


def reopen(name: str, identity: Mapping[str, str], source: Source) -> Repository:
    """Return a repository in the state that it was pinned in. Raises SourceError."""
    url = identity["url"]
    index = fetch(
        f"{url}/{name}.db",
        source.cache,
        report=source.report,
        sha256=identity["sha256"],
        size_limit=FILE_LIMIT,
    )
    return _as_repository(name, url, index)


def _as_repository(name: str, url: str, index: Fetched) -> Repository:
    return Repository(name, url, index.sha256, index.read())


def packages(repository: Repository) -> Iterator[dict[str, Any]]:
    """Yield every package: name, version, repository, file, sha256, size in bytes, built.

    built: seconds since 1970. Raises SourceError.
    """
    try:
        pieces = inflated(iter((repository.content,)), "")
        with tarfile.open(fileobj=_Bounded(pieces), mode="r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps each
                if member.isfile() and member.name.endswith("/desc"):
                    yield _package(_text(archive, member), repository.name)
    # RecursionError: of headers before headers, which tarfile reads by calling itself.
    except (OSError, EOFError, KeyError, ValueError, RecursionError, tarfile.TarError) as error:
        raise SourceError(
            f"{repository.url}/{repository.name}.db: cannot be understood", why=f"{error!r}"
        ) from error


class _Bounded(io.RawIOBase):
    """An index that is read piece by piece, up to a limit: a small file may unpack to any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest, self._room = pieces, b"", INDEX_LIMIT

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, fewer only at the end. Raises ValueError beyond the limit."""
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._room -= len(piece)
            if self._room < 0:
                raise ValueError(f"it has over {INDEX_LIMIT:,} bytes, unpacked")
            self._rest += piece
        read, self._rest = self._rest[:size], self._rest[size:]
        return read


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    if file is None or member.size > TEXT_LIMIT:
        raise ValueError(f"{member.name}: has {member.size:,} bytes")
    return file.read().decode(errors="replace")


def _package(text: str, repository: str) -> dict[str, Any]:
    """Read the first value of each ``%FIELD%`` line."""
    lines = text.split("\n")
    fields = {line: lines[n + 1] for n, line in enumerate(lines[:-1]) if line[:1] == "%"}
    file, sha256 = fields["%FILENAME%"], fields["%SHA256SUM%"]
    if not FILE.fullmatch(file) or not SHA256.fullmatch(sha256):
        raise ValueError(f"{file!r} with the digest {sha256!r} is no file of a repository")
    return {
        "name": fields["%NAME%"],
        "version": fields["%VERSION%"],
        "repository": repository,
        "file": file,
        "sha256": sha256,
        "size": int(fields["%CSIZE%"]),
        "built": int(fields["%BUILDDATE%"]),
    }
