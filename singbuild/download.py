"""Fetches files over HTTP and from the host, checks and keeps them; the only user of requests.

A directory given as ``into`` is a store that builds share, also at the same time::

    SHA256      a whole file, named by its own digest
    KEY.url     where a URL of unknown digest led last, and the validators to ask with
    KEY.part    what has arrived of a file; whoever holds its lock downloads it

Nothing has its final name before it is whole, so a build that is killed leaves at
most a ``.part``, which the next one resumes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import requests
import urllib3.exceptions

from singbuild import __version__
from singbuild.contract import Reporter
from singbuild.errors import HostError, SourceError

ATTEMPTS = 5
BACK_OFF = 0.5  # seconds before the second attempt; doubles each time
LONGEST_WAIT = 60.0  # seconds, whatever Retry-After says
TIMEOUT = (15.0, 60.0)  # seconds to connect, and between two pieces of an answer
SIZE_LIMIT = 64 << 30  # bytes
PIECE = 1 << 16  # bytes
WORKERS = 4
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # RFC 9110 section 15, RFC 6585 section 4
VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


class NotFoundError(SourceError):
    """The server, or the host, has no such file."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch. sha256: 64 hex digits, "" if unknown; size: bytes, 0 if unknown."""

    url: str
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class Fetched:
    """A whole file on the host. sha256: its digest in hex; size: bytes."""

    path: Path
    sha256: str
    size: int


def fetch(
    url: str, into: Path, *, report: Reporter, sha256: str = "", size_limit: int = SIZE_LIMIT
) -> Fetched:
    """Return the file that ``url`` names: http(s), ``file://`` or a path of the host.

    A file of the host is checked and left where it is. One from the network is kept in
    the store ``into``: with a ``sha256`` it is fetched once, without one the server is
    asked each time whether it has changed. Proxies come from the environment.
    Raises NotFoundError, SourceError, and HostError when the store cannot be written.
    """
    with requests.Session() as session:
        return _fetch(Remote(url, sha256.lower()), into, report, size_limit, session)


def fetch_all(
    wanted: Sequence[Remote], into: Path, *, report: Reporter, label: str
) -> list[Fetched]:
    """Fetch files, a few at a time; return them in the same order.

    Progress counts the bytes of all under ``label``. The first error stops the rest.
    Raises as ``fetch`` does.
    """
    todo: queue.SimpleQueue[tuple[int, Remote]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Fetched] | BaseException] = queue.SimpleQueue()
    for numbered in enumerate(wanted):
        todo.put(numbered)
    whole = _Whole(report, label, sum(remote.size for remote in wanted))

    def work() -> None:
        try:
            with requests.Session() as session, contextlib.suppress(queue.Empty):
                while True:
                    number, remote = todo.get_nowait()
                    limit = remote.size or SIZE_LIMIT
                    done.put((number, _fetch(remote, into, _Share(whole), limit, session)))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            done.put(error)

    # Daemons: Ctrl-C need not wait for a server that has fallen silent.
    for _ in range(min(WORKERS, len(wanted))):
        threading.Thread(target=work, daemon=True).start()
    try:
        return _collect(done, len(wanted))
    finally:
        whole.stopped = True


def _collect(
    done: queue.SimpleQueue[tuple[int, Fetched] | BaseException], count: int
) -> list[Fetched]:
    arrived: dict[int, Fetched] = {}
    while len(arrived) < count:
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        arrived[result[0]] = result[1]
    return [arrived[number] for number in range(count)]


class _Whole:
    """One progress bar for files that several threads fetch."""

    def __init__(self, report: Reporter, label: str, total: int) -> None:
        self.report, self.label, self.total = report, label, total
        self.lock = threading.Lock()
        self.done = 0
        self.stopped = False


class _Share:
    """The Reporter of one of these files."""

    def __init__(self, whole: _Whole) -> None:
        self.whole, self.seen = whole, 0

    def line(self, text: str) -> None:
        with self._turn():
            self.whole.report.line(text)

    def warn(self, text: str) -> None:
        with self._turn():
            self.whole.report.warn(text)

    def progress(self, _label: str, done: int, _total: int) -> None:
        with self._turn():
            self.whole.done += done - self.seen
            self.seen = done
            self.whole.report.progress(self.whole.label, self.whole.done, self.whole.total)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self.whole.lock:
            if self.whole.stopped:  # nobody listens any more
                raise SourceError(f"{self.whole.label}: stopped")
            yield


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(
    wanted: Remote, into: Path, report: Reporter, limit: int, session: requests.Session
) -> Fetched:
    scheme = urlsplit(wanted.url).scheme if "://" in wanted.url else "file"
    if scheme == "file":
        return _local(wanted, limit)
    if scheme in ("http", "https"):
        with _store_errors(into):
            into.mkdir(parents=True, exist_ok=True)
            return _Download(wanted, into, report, limit, session).run()
    raise SourceError(
        f"{wanted.url}: files cannot be fetched by {scheme}",
        remedy="Give an http:// or https:// URL, a file:// URL or a path.",
    )


def _local(wanted: Remote, limit: int) -> Fetched:
    """Check a file of the host where it is."""
    named = unquote(urlsplit(wanted.url).path) if "://" in wanted.url else wanted.url
    path = Path(named).absolute()
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise NotFoundError(f"{wanted.url}: {what}", remedy="Correct the path.")
    size = path.stat().st_size
    if size > limit:
        raise _too_large(wanted.url, limit)
    try:
        found = digest(path)
    except OSError as error:
        raise SourceError(f"{wanted.url}: cannot be read", why=error.strerror or "") from error
    if wanted.sha256 not in ("", found):
        raise _wrong_digest(wanted.url, wanted.sha256, found)
    return Fetched(path, found, size)


class _TryAgainError(Exception):
    """An attempt that failed and may succeed later. wait: seconds that the server asked for."""

    def __init__(self, error: SourceError, wait: float = 0.0) -> None:
        super().__init__(error)
        self.error, self.wait = error, wait


class _Download:
    """One URL on its way into a store."""

    def __init__(
        self, wanted: Remote, into: Path, report: Reporter, limit: int, session: requests.Session
    ) -> None:
        self.wanted, self.into, self.report = wanted, into, report
        self.limit, self.session = limit, session
        self.shown = re.sub(r"//[^/@]*@", "//", wanted.url)  # without a password
        self.label = urlsplit(wanted.url).path.rsplit("/", 1)[-1] or self.shown
        self.key = wanted.sha256 or hashlib.sha256(wanted.url.encode()).hexdigest()
        # Of what lies in the part so far:
        self.size = 0
        self.hash = hashlib.sha256()
        self.validators: dict[str, str] = {}

    def run(self) -> Fetched:
        """Return the file, from the store if it is there and still current."""
        if kept := self._kept(self.wanted.sha256):
            return kept
        with _locked(self.into / f"{self.key}.part", self.report, self.label) as part:
            # Whoever held the lock before us may have been after the same file.
            return self._kept(self.wanted.sha256) or self._download(part)

    def _download(self, part: BinaryIO) -> Fetched:
        self._take_up(part)
        last = self._last()
        kept = self._kept(last.get("sha256", ""))
        for attempt in range(1, ATTEMPTS):
            try:
                return self._attempt(part, last, kept)
            except _TryAgainError as again:
                self._pause(again, attempt)
        try:
            return self._attempt(part, last, kept)
        except _TryAgainError as again:
            raise again.error from again.__cause__

    def _take_up(self, part: BinaryIO) -> None:
        """Go on with what an earlier build left, if the digest will tell whether it fits."""
        if not self.wanted.sha256:
            part.truncate(0)
        part.seek(0)
        while piece := part.read(PIECE):
            self.hash.update(piece)
            self.size += len(piece)

    def _start_over(self, part: BinaryIO) -> None:
        part.truncate(0)
        self.size, self.hash, self.validators = 0, hashlib.sha256(), {}

    def _attempt(self, part: BinaryIO, last: dict[str, str], kept: Fetched | None) -> Fetched:
        """Ask once, for the whole file, its rest, or whether ``kept`` is still current."""
        try:
            with self._ask(last if kept else {}) as answer:
                if kept and answer.status_code == requests.codes.not_modified:
                    return kept
                self._receive(answer, part)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._broken(error) from error
        return self._keep(part)

    def _ask(self, last: dict[str, str]) -> requests.Response:
        headers = {"User-Agent": f"singbuild/{__version__}", "Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if unchanged := _strong(self.validators):
                headers["If-Range"] = unchanged
        else:
            headers |= {ask: last[name] for name, ask in VALIDATORS.items() if last.get(name)}
        return self.session.get(self.wanted.url, headers=headers, stream=True, timeout=TIMEOUT)

    def _receive(self, answer: requests.Response, part: BinaryIO) -> None:
        """Write an answer's body behind what is there, or in its place if it is the whole file."""
        if answer.status_code == requests.codes.requested_range_not_satisfiable and self.size:
            self._start_over(part)
            raise _TryAgainError(self._error("the server has no rest of what came before"))
        if not answer.ok:
            raise self._refused(answer)
        if answer.status_code != requests.codes.partial_content:
            self._start_over(part)
        elif not self._continues(answer):
            self._start_over(part)
            raise _TryAgainError(self._error("the file changed between two pieces"))
        self.validators = _validators(answer)
        length = answer.headers.get("Content-Length", "")
        self._copy(answer, part, self.size + int(length) if length.isdecimal() else 0)

    def _continues(self, answer: requests.Response) -> bool:
        """Whether a partial answer begins where the part ends, and is of the same file."""
        begins = answer.headers.get("Content-Range", "").startswith(f"bytes {self.size}-")
        return begins and self.validators in ({}, _validators(answer))

    def _copy(self, answer: requests.Response, part: BinaryIO, total: int) -> None:
        # The bytes as they are sent: some servers call a .gz file "Content-Encoding: gzip".
        for piece in answer.raw.stream(PIECE, decode_content=False):
            if max(self.size + len(piece), total) > self.limit:
                self._start_over(part)
                raise _too_large(self.shown, self.limit)
            part.write(piece)
            self.hash.update(piece)
            self.size += len(piece)
            self.report.progress(self.label, self.size, total)
        if self.size < total:
            raise _TryAgainError(self._error(f"only {self.size} of {total} bytes arrived"))

    def _keep(self, part: BinaryIO) -> Fetched:
        """Give the whole file its final name."""
        found, size = self.hash.hexdigest(), self.size
        if self.wanted.sha256 not in ("", found):
            self._start_over(part)
            raise _wrong_digest(self.shown, self.wanted.sha256, found)
        part.flush()
        os.fsync(part.fileno())
        (self.into / f"{self.key}.part").rename(self.into / found)
        if not self.wanted.sha256:
            self._remember(found)
        return Fetched(self.into / found, found, size)

    def _remember(self, found: str) -> None:
        scratch = self.into / f"{self.key}.url.{os.getpid()}"
        scratch.write_text(json.dumps({"sha256": found} | self.validators))
        scratch.rename(self.into / f"{self.key}.url")

    def _last(self) -> dict[str, str]:
        """Return what is known of this URL from last time; {} if nothing is, or it is damaged."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            last = json.loads((self.into / f"{self.key}.url").read_text())
            if isinstance(last, dict) and re.fullmatch("[0-9a-f]{64}", str(last.get("sha256"))):
                return {str(name): str(value) for name, value in last.items()}
        return {}

    def _kept(self, sha256: str) -> Fetched | None:
        """Return a file of the store if it is there and whole."""
        path = self.into / sha256
        if not sha256 or not path.is_file():
            return None
        if digest(path) != sha256:
            self.report.warn(f"{path}: is damaged and is fetched again")
            path.unlink(missing_ok=True)
            return None
        size = path.stat().st_size
        self.report.progress(self.label, size, size)
        return Fetched(path, sha256, size)

    def _pause(self, again: _TryAgainError, attempt: int) -> None:
        wait = min(LONGEST_WAIT, max(again.wait, BACK_OFF * 2 ** (attempt - 1)))
        self.report.line(f"{self.label}: {again.error.why}; trying again in {wait:g} s")
        time.sleep(wait)

    def _error(self, why: str, remedy: str = "") -> SourceError:
        remedy = remedy or "Try again later, or use another mirror."
        return SourceError(f"{self.shown}: cannot be fetched", why=why, remedy=remedy)

    def _refused(self, answer: requests.Response) -> Exception:
        """Say what a status of 400 or more means."""
        why = f"the server answers {answer.status_code} {answer.reason}"
        if answer.status_code in (requests.codes.not_found, requests.codes.gone):
            return NotFoundError(
                f"{self.shown}: does not exist", why=why, remedy="Correct the URL."
            )
        if answer.status_code in TRANSIENT:
            return _TryAgainError(self._error(why), _retry_after(answer))
        return self._error(why, "Correct the URL, or give the access that the server wants.")

    def _broken(self, error: Exception) -> Exception:
        """Say in plain words why no answer, or only a part of one, came."""
        causes = _causes(error)
        for kinds, why, remedy in _FINAL:
            if found := next((cause for cause in causes if isinstance(cause, kinds)), None):
                said = getattr(found, "verify_message", "") or str(found)
                return self._error(why.format(server=self._server(), said=said), remedy)
        if any(isinstance(c, TimeoutError | urllib3.exceptions.TimeoutError) for c in causes):
            late = f"{self._server()} sent nothing for {TIMEOUT[1]:g} s"
            return _TryAgainError(self._error(late))
        return _TryAgainError(self._error(f"the connection broke after {self.size} bytes"))

    def _server(self) -> str:
        return urlsplit(self.shown).netloc


_FINAL: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (requests.exceptions.ProxyError,),
        "the proxy does not let us through: {said}",
        "Check the variables http_proxy, https_proxy and no_proxy.",
    ),
    (
        (ssl.SSLError,),
        "no secure connection to {server}: {said}",
        "Check the URL, the server's certificate, and this host's clock and CA certificates.",
    ),
    (
        (socket.gaierror,),
        "the name {server} cannot be resolved",
        "Correct the name, or check this host's network and name servers.",
    ),
    ((ConnectionRefusedError,), "{server} refuses connections", ""),
    (
        (urllib3.exceptions.ConnectTimeoutError,),
        f"{{server}} does not answer within {TIMEOUT[0]:g} s",
        "",
    ),
    ((urllib3.exceptions.NewConnectionError,), "{server} cannot be reached: {said}", ""),
    ((requests.exceptions.TooManyRedirects, ValueError), "{said}", "Correct the URL."),
)
"""Failures that no second attempt mends: what they are told by, why, and what to do."""


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _validators(answer: requests.Response) -> dict[str, str]:
    return {name: answer.headers[name] for name in VALIDATORS if name in answer.headers}


def _strong(validators: dict[str, str]) -> str:
    """Return what If-Range may carry: a strong ETag, else a date (RFC 9110 section 13.1.5)."""
    etag = validators.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else validators.get("Last-Modified", "")


def _retry_after(answer: requests.Response) -> float:
    """Return the seconds that the server asks us to wait (RFC 9110 section 10.2.3)."""
    asked = answer.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(asked).timestamp() - time.time()
    return 0.0


@contextlib.contextmanager
def _locked(path: Path, report: Reporter, label: str) -> Iterator[BinaryIO]:
    """Open a part for one download alone, waiting for another that has it; drop it if empty."""
    while True:
        with path.open("a+b") as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report.line(f"{label}: waiting for another build that fetches it")
                fcntl.flock(part, fcntl.LOCK_EX)
            if not _names(path, part):
                continue  # the other one was done and renamed it
            try:
                yield part
            finally:
                if _names(path, part) and part.seek(0, os.SEEK_END) == 0:
                    path.unlink()
            return


def _names(path: Path, file: BinaryIO) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _store_errors(into: Path) -> Iterator[None]:
    """Say what an OSError of the store means; those of the network never come this far."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{error.filename or into}: cannot be written",
            why=error.strerror or str(error),
            remedy="Make room there, or name another cache directory.",
        ) from error


def _too_large(url: str, limit: int) -> SourceError:
    return SourceError(
        f"{url}: is larger than the {limit:,} bytes that it may have",
        remedy="Check that the URL names the right file.",
    )


def _wrong_digest(url: str, expected: str, found: str) -> SourceError:
    return SourceError(
        f"{url}: has the wrong SHA-256",
        why=f"expected {expected}, got {found}",
        remedy="Find out who changed the file; if it was changed on purpose, give its new digest.",
    )
