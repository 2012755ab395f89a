"""Brings one URL into a store of files: whole, checked, resumed where it broke off.

A store is a directory that builds share, also at the same time::

    SHA256      a whole file, named by its own digest
    KEY.url     where a URL of unknown digest led last, and the validators to ask with
    KEY.part    what has arrived of a file; whoever has leased it downloads it

Nothing has its final name before it is whole, so a build that is killed leaves at
most a ``.part``, which the next one takes up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import requests
import urllib3.exceptions

from singbuild import __version__
from singbuild.contract import Reporter
from singbuild.download import answers, limits, segments
from singbuild.download.errors import (
    TryAgainError,
    cannot_fetch,
    public_url,
    too_large,
    wrong_digest,
)
from singbuild.download.retry import retried
from singbuild.download.store import (
    OFFLINE,
    PIECE,
    Fetched,
    Remote,
    digest,
    is_offline,
    locked,
    rename_part,
)

VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
_DIGITS = 20  # of a length; int() refuses some thousand of them


class Transfer:
    """One http(s) URL on its way into a store.

    limit: the most bytes that it may have.
    """

    def __init__(
        self, remote: Remote, store: Path, report: Reporter, limit: int, session: requests.Session
    ) -> None:
        self.remote, self.store, self.report = remote, store, report
        self.limit, self.session = limit, session
        self.public_url = public_url(remote.url)
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
            raise answers.broken(self.public_url, error, self.size) from error
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
            raise answers.refused(self.public_url, answer)
        if answer.status_code != requests.codes.partial_content:
            self._start_over(part)
        elif not self._continues(answer):
            self._start_over(part)
            raise self._try_again("the file changed between two pieces")
        self.validators = _validators(answer)
        length = answer.headers.get("Content-Length", "")
        is_length = length.isdecimal() and len(length) < _DIGITS
        self._copy(answer, part, self.size + int(length) if is_length else 0)

    def _continues(self, answer: requests.Response) -> bool:
        """Whether a partial answer begins where the part ends, and is of the same file."""
        begins = answer.headers.get("Content-Range", "").startswith(f"bytes {self.size}-")
        return begins and self.validators in ({}, _validators(answer))

    def _copy(self, answer: requests.Response, part: BinaryIO, total: int) -> None:
        for piece in self._pieces(answer, total):
            if max(self.size + len(piece), total) > self.limit:
                self._start_over(part)
                raise too_large(self.public_url, self.limit)
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
        rename_part(part, self.store / f"{self.key}.part", self.store / sha256, self.public_url)
        if not self.remote.sha256:
            self._save_validators(sha256)
        return Fetched(self.store / sha256, sha256, size)

    def _save_validators(self, sha256: str) -> None:
        scratch = self.store / f"{self.key}.url.part"  # ours alone: the part is still leased
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
