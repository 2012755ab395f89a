"""Brings one URL into a store of files: whole, checked, resumed where it broke off.

A store is a directory that builds share, also at the same time::

    SHA256      a whole file, named by its own digest
    KEY.url     where a URL of unknown digest led last, and the validators to ask with
    KEY.part    what has arrived of a file; whoever has claimed it downloads it

Nothing has its final name before it is whole, so a build that is killed leaves at
most a ``.part``, which the next one takes up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import requests
import urllib3.exceptions

from singbuild import __version__, claim
from singbuild.contract import Reporter
from singbuild.download import errors, limits, segments
from singbuild.download.errors import TryAgainError, cannot_fetch, wrong_digest
from singbuild.download.retry import retried
from singbuild.errors import SourceError

PIECE = 1 << 16  # bytes
OFFLINE = "SINGBUILD_OFFLINE"
VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    sha256: 64 hex digits, "" if unknown; size: bytes, 0 if unknown; label: for the user.
    """

    url: str
    sha256: str = ""
    size: int = 0
    label: str = ""


@dataclass(frozen=True)
class Fetched:
    """A whole file on the host. sha256: its digest in hex; size: bytes."""

    path: Path
    sha256: str
    size: int

    def read(self) -> bytes:
        """Return the content, of which the digest is checked again. Raises SourceError, OSError."""
        return _checked(self.path, self.sha256, self.size)


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
    """Put content that came by other ways into a store, whole or not at all. Raises OSError."""
    sha256 = hashlib.sha256(content).hexdigest()
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / f"{sha256}.part", report, sha256) as part:
        part.truncate(0)
        part.write(content)
        part.flush()
        os.fsync(part.fileno())
        (store / f"{sha256}.part").rename(store / sha256)
    return Fetched(store / sha256, sha256, len(content))


def keep_copy(remote: Remote, file: BinaryIO, store: Path, report: Reporter) -> Fetched:
    """Put a copy of an open file into a store if it has the digest that it should have.

    Raises SourceError, OSError.
    """
    store.mkdir(parents=True, exist_ok=True)
    total, size = hashlib.sha256(), 0
    with locked(store / f"{remote.sha256}.part", report, remote.label or remote.url) as part:
        part.truncate(0)
        while piece := file.read(PIECE):
            part.write(piece)
            total.update(piece)
            size += len(piece)
        if total.hexdigest() != remote.sha256:
            part.truncate(0)
            raise wrong_digest(remote.url, remote.sha256, total.hexdigest())
        part.flush()
        (store / f"{remote.sha256}.part").rename(store / remote.sha256)
    return Fetched(store / remote.sha256, remote.sha256, size)


class Transfer:
    """One http(s) URL on its way into a store.

    limit: the most bytes that it may have.
    """

    def __init__(
        self, remote: Remote, store: Path, report: Reporter, limit: int, session: requests.Session
    ) -> None:
        self.remote, self.store, self.report = remote, store, report
        self.limit, self.session = limit, session
        self.public_url = re.sub(r"//[^/@]*@", "//", remote.url)  # without a password
        name = re.split("[?#]", remote.url)[0].rsplit("/", 1)[-1]
        self.label = remote.label or name or self.public_url
        self.key = remote.sha256 or hashlib.sha256(remote.url.encode()).hexdigest()
        # What lies in the part so far:
        self.size = 0
        self.hash = hashlib.sha256()
        self.validators: dict[str, str] = {}
        self._alone = False  # by one connection, since the server does not send parts

    def run(self) -> Fetched:
        """Return the file, from the store if it is there and still current.

        Raises SourceError, and OSError when the store cannot be written.
        """
        if stored := self._from_store(self.remote.sha256):
            return stored
        if is_offline():
            return self._from_store_offline()
        with locked(self.store / f"{self.key}.part", self.report, self.label) as part:
            # The process that was waited for may have fetched the same file.
            return self._from_store(self.remote.sha256) or self._fetch(part)

    def _fetch(self, part: BinaryIO) -> Fetched:
        self._resume(part)
        saved = self._saved()
        stored = self._from_store(saved.get("sha256", ""))
        return retried(lambda: self._attempt(part, saved, stored), self.report, self.label)

    def _resume(self, part: BinaryIO) -> None:
        """Hash what an earlier build left; drop it where no digest can tell whether it fits."""
        if not self.remote.sha256:
            part.truncate(0)
        part.seek(0)
        while piece := part.read(PIECE):
            self.hash.update(piece)
            self.size += len(piece)

    def _start_over(self, part: BinaryIO) -> None:
        part.truncate(0)
        self.size, self.hash, self.validators = 0, hashlib.sha256(), {}

    def _attempt(self, part: BinaryIO, saved: dict[str, str], stored: Fetched | None) -> Fetched:
        """Ask once: for the whole file, for its rest, or whether ``stored`` is still current."""
        try:
            with self._ask(saved if stored else {}) as answer:
                if stored and answer.status_code == requests.codes.not_modified:
                    return stored
                self._receive(answer, part)
        except segments.NoRangesError as error:
            self._alone = True
            raise self._try_again("the server does not send it in parts") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise errors.broken(self.public_url, error, self.size) from error
        return self._finish(part)

    def _ask(self, saved: dict[str, str]) -> requests.Response:
        if self.size:
            return self._get(self._range(self.size))
        return self._get({ask: saved[name] for name, ask in VALIDATORS.items() if saved.get(name)})

    def _range(self, begin: int, end: int = 0) -> dict[str, str]:
        """Return the headers that ask for a part. end: the byte after it, 0 for all the rest."""
        headers = {"Range": f"bytes={begin}-{end - 1 if end else ''}"}
        unchanged = _strong(self.validators)
        return headers | ({"If-Range": unchanged} if unchanged else {})

    def _get(self, more: dict[str, str]) -> requests.Response:
        # identity: a part can be resumed only in the bytes that its digest is of.
        headers = {"User-Agent": f"singbuild/{__version__}", "Accept-Encoding": "identity"} | more
        timeout = limits.TIMEOUT
        return self.session.get(self.remote.url, headers=headers, stream=True, timeout=timeout)

    def _receive(self, answer: requests.Response, part: BinaryIO) -> None:
        """Write an answer's body behind what is there, or in its place if it is the whole file."""
        if answer.status_code == requests.codes.requested_range_not_satisfiable and self.size:
            self._start_over(part)
            raise self._try_again("the server has no rest of what came before")
        if not answer.ok:
            raise errors.refused(self.public_url, answer)
        if answer.status_code != requests.codes.partial_content:
            self._start_over(part)
        elif not self._continues(answer):
            self._start_over(part)
            raise self._try_again("the file changed between two pieces")
        self.validators = _validators(answer)
        length = answer.headers.get("Content-Length", "")
        self._copy(answer, part, self.size + int(length) if length.isdecimal() else 0)

    def _continues(self, answer: requests.Response) -> bool:
        """Whether a partial answer begins where the part ends, and is of the same file."""
        begins = answer.headers.get("Content-Range", "").startswith(f"bytes {self.size}-")
        return begins and self.validators in ({}, _validators(answer))

    def _copy(self, answer: requests.Response, part: BinaryIO, total: int) -> None:
        for piece in self._pieces(answer, total):
            if max(self.size + len(piece), total) > self.limit:
                self._start_over(part)
                raise errors.too_large(self.public_url, self.limit)
            part.write(piece)
            self.hash.update(piece)
            self.size += len(piece)
            self.report.progress(self.label, self.size, total)
            limits.passed(len(piece))

    def _pieces(self, answer: requests.Response, total: int) -> Iterator[bytes]:
        """Yield a body, in parts where its digest will tell whether they fit together."""
        takes_ranges = "Content-Range" in answer.headers or (
            answer.headers.get("Accept-Ranges") == "bytes"
        )
        if (
            total
            and takes_ranges
            and self.remote.sha256
            and not (self._alone or limits.bandwidth())
        ):
            return segments.pieces(
                answer, self.size, total, lambda begin, end: self._get(self._range(begin, end))
            )
        # The bytes as they are sent: some servers call a .gz file "Content-Encoding: gzip".
        return cast("Iterator[bytes]", answer.raw.stream(PIECE, decode_content=False))

    def _finish(self, part: BinaryIO) -> Fetched:
        """Give the whole file its final name."""
        sha256, size = self.hash.hexdigest(), self.size
        if self.remote.sha256 not in ("", sha256):
            self._start_over(part)
            raise wrong_digest(self.public_url, self.remote.sha256, sha256)
        part.flush()
        # rename(2) may reach the disk before the data does.
        os.fsync(part.fileno())
        name = self.store / f"{self.key}.part"
        if not _names(name, part):  # this host was asleep, and another one took over
            raise cannot_fetch(self.public_url, "another process has taken over", "Try again.")
        name.rename(self.store / sha256)
        if not self.remote.sha256:
            self._save_validators(sha256)
        return Fetched(self.store / sha256, sha256, size)

    def _save_validators(self, sha256: str) -> None:
        scratch = self.store / f"{self.key}.url.part"  # ours alone: the part is still claimed
        scratch.write_text(json.dumps({"sha256": sha256} | self.validators))
        scratch.rename(self.store / f"{self.key}.url")

    def _saved(self) -> dict[str, str]:
        """Return what is known of this URL from last time; {} if nothing is, or it is damaged."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            saved = json.loads((self.store / f"{self.key}.url").read_text())
            if isinstance(saved, dict) and re.fullmatch("[0-9a-f]{64}", str(saved.get("sha256"))):
                return {str(name): str(value) for name, value in saved.items()}
        return {}

    def _from_store(self, sha256: str) -> Fetched | None:
        """Return a file of the store if it is there and whole."""
        path = self.store / sha256
        if not sha256 or not path.is_file():
            return None
        if digest(path) != sha256:
            self.report.warn(f"{path}: is damaged and is fetched again")
            path.unlink(missing_ok=True)
            return None
        size = path.stat().st_size
        self.report.progress(self.label, size, size)
        return Fetched(path, sha256, size)

    def _from_store_offline(self) -> Fetched:
        """Return what this URL led to last time. Raises SourceError if that is not known."""
        sha256 = "" if self.remote.sha256 else self._saved().get("sha256", "")
        if stored := self._from_store(sha256):
            return stored
        raise cannot_fetch(
            self.public_url,
            f"{OFFLINE} is set, and the file is not in {self.store}",
            f"Build once without {OFFLINE}, or unset it.",
        )

    def _try_again(self, why: str) -> TryAgainError:
        return TryAgainError(cannot_fetch(self.public_url, why))


def _validators(answer: requests.Response) -> dict[str, str]:
    return {name: answer.headers[name] for name in VALIDATORS if name in answer.headers}


def _strong(validators: dict[str, str]) -> str:
    """Return what If-Range may carry: a strong ETag, else a date (RFC 9110 section 13.1.5)."""
    etag = validators.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else validators.get("Last-Modified", "")


@contextlib.contextmanager
def locked(path: Path, report: Reporter, label: str) -> Iterator[BinaryIO]:
    """Open a part for one transfer alone, waiting for another that has it; drop it if empty."""

    def tell() -> None:
        report.line(f"{label}: waiting for another build that fetches it")

    with claim.claimed(path, tell) as is_doubtful:
        if is_doubtful:  # who wrote to it may go on: in a file that has no name then
            path.unlink(missing_ok=True)
        with path.open("a+b") as part:
            try:
                yield part
            finally:
                if _names(path, part) and part.seek(0, os.SEEK_END) == 0:
                    path.unlink()


def _names(path: Path, file: BinaryIO) -> bool:
    """Whether a path names an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
