"""A store of files under their digests: whole, checked, written by one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from singbuild import lease
from singbuild.contract import Reporter
from singbuild.download.errors import cannot_fetch, public_url, wrong_digest
from singbuild.errors import SourceError

PIECE = 1 << 16  # bytes
OFFLINE = "SINGBUILD_OFFLINE"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    sha256: 64 hex digits, "" if unknown; size: bytes, 0 if unknown; label: for the user.
    """

    url: str
    sha256: str = ""
    size: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse a digest that is none: it may be a stranger's, and names a file of the store."""
        if self.sha256 and not _SHA256.fullmatch(str(self.sha256)):
            raise SourceError(
                f"{public_url(self.url)}: cannot be fetched",
                why=f"{str(self.sha256)[:100]!r} is no SHA-256.",
                remedy="Correct it where it stands, or find out who wrote it.",
            )


@dataclass(frozen=True)
class Fetched:
    """A whole file on the host. sha256: its digest in hex; size: bytes."""

    path: Path
    sha256: str
    size: int

    def read(self) -> bytes:
        """Return the content, of which the digest is checked again. Raises SourceError, OSError."""
        return _checked(self.path, self.sha256, self.size)

    def check(self) -> None:
        """Check the digest again, for who reads the file himself. Raises SourceError."""
        try:
            actual = digest(self.path)
        except OSError as error:
            raise _removed_error(self.path, error.strerror or "") from error
        if actual != self.sha256:
            raise _removed_error(self.path, "its SHA-256 is another one now")


def is_offline() -> bool:
    """Whether the user wants nothing from the network: SINGBUILD_OFFLINE=1."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored(store: Path, sha256: str, limit: int) -> bytes:
    """Return what a store has under a digest: the bytes that were checked, not read a second time.

    limit: the most bytes that it may have. Raises SourceError.
    """
    try:
        return _checked(store / sha256, sha256, limit)
    except OSError as error:
        raise _removed_error(store / sha256, error.strerror or "") from error


def _checked(path: Path, sha256: str, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _removed_error(path, "its SHA-256 is another one now")
    return content


def _removed_error(path: Path, why: str) -> SourceError:
    return SourceError(f"{path}: is gone or was changed", why=why, remedy="Build again.")


def keep(content: bytes, store: Path, report: Reporter) -> Fetched:
    """Put content that no transfer brought into a store, whole or not at all. Raises OSError."""
    sha256 = hashlib.sha256(content).hexdigest()
    store.mkdir(parents=True, exist_ok=True)
    name = store / f"{sha256}.part"
    with locked(name, report, sha256) as part:
        part.truncate(0)
        part.write(content)
        rename_part(part, name, store / sha256, sha256)
    return Fetched(store / sha256, sha256, len(content))


def keep_copy(remote: Remote, file: BinaryIO, store: Path, report: Reporter) -> Fetched:
    """Put a copy of an open file into a store if it has the digest that it should have.

    Raises SourceError, OSError.
    """
    store.mkdir(parents=True, exist_ok=True)
    total, size = hashlib.sha256(), 0
    name = store / f"{remote.sha256}.part"
    with locked(name, report, remote.label or remote.url) as part:
        part.truncate(0)
        while piece := file.read(PIECE):
            part.write(piece)
            total.update(piece)
            size += len(piece)
        if total.hexdigest() != remote.sha256:
            part.truncate(0)
            raise wrong_digest(remote.url, remote.sha256, total.hexdigest())
        rename_part(part, name, store / remote.sha256, remote.url)
    return Fetched(store / remote.sha256, remote.sha256, size)


def rename_part(part: BinaryIO, name: Path, target: Path, whose: str) -> None:
    """Give a whole part its final name. Raises SourceError: it is no longer ours; OSError."""
    part.flush()
    # rename(2) may reach the disk before the data does.
    os.fsync(part.fileno())
    if not is_name_of(name, part):  # this host was asleep, and another one took over
        raise cannot_fetch(whose, "another process has taken over", "Try again.")
    name.rename(target)


@contextlib.contextmanager
def locked(path: Path, report: Reporter, label: str) -> Iterator[BinaryIO]:
    """Open a part for one transfer alone, waiting for another that has it; drop it if empty."""

    def tell() -> None:
        report.line(f"{label}: waiting for another build that fetches it")

    with lease.leased(path, tell) as is_doubtful:
        if is_doubtful:  # its former writer may go on, in a file that has no name then
            path.unlink(missing_ok=True)
        with path.open("a+b") as part:
            try:
                yield part
            finally:
                if is_name_of(path, part) and part.seek(0, os.SEEK_END) == 0:
                    path.unlink()


def is_name_of(path: Path, file: BinaryIO) -> bool:
    """Whether a path names an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
