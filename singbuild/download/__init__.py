"""Fetches files over HTTP and from the host, checked and kept in a store.

What backends use of the modules below is here, too. requests takes 30 ms of a start and is
imported with the first URL: most builds need no network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from singbuild.contract import Reporter
from singbuild.download.errors import NotFoundError, TryAgainError, public_url, too_large
from singbuild.download.limits import TIMEOUT, passed
from singbuild.download.nearness import is_loopback
from singbuild.download.progress import SharedProgress
from singbuild.download.retry import retried
from singbuild.download.store import (
    Fetched,
    Remote,
    digest,
    is_offline,
    keep,
    keep_copy,
    locked,
    stored,
)
from singbuild.errors import HostError, SourceError

if TYPE_CHECKING:
    import requests

    from singbuild.download.addresses import RedirectError, check_named, named_by, origin
    from singbuild.download.answers import broken, refused
    from singbuild.download.authorities import HostAdapter, host_context
    from singbuild.download.sessions import Session

__all__ = [
    "TIMEOUT",
    "Fetched",
    "HostAdapter",
    "NotFoundError",
    "RedirectError",
    "Remote",
    "Session",
    "SharedProgress",
    "TryAgainError",
    "broken",
    "check_named",
    "digest",
    "fetch",
    "fetch_all",
    "host_context",
    "is_loopback",
    "is_offline",
    "is_open_line",
    "keep",
    "locked",
    "named_by",
    "origin",
    "passed",
    "refused",
    "retried",
    "stored",
]

SIZE_LIMIT = 64 << 30  # bytes
WORKERS = 4
# The names whose modules import requests.
_MODULES = {
    "HostAdapter": "authorities",
    "RedirectError": "addresses",
    "Session": "sessions",
    "broken": "answers",
    "check_named": "addresses",
    "host_context": "authorities",
    "named_by": "addresses",
    "origin": "addresses",
    "refused": "answers",
}


def __getattr__(name: str) -> object:
    """Import a name whose module imports requests when it is asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def fetch(
    url: str,
    into: Path,
    *,
    report: Reporter,
    sha256: str = "",
    size_limit: int = SIZE_LIMIT,
    label: str = "",
    session: requests.Session | None = None,
) -> Fetched:
    """Return the file that ``url`` names: http(s), ``file://`` or a path of the host.

    A file of the host is left where it is; with a ``sha256`` it is copied to the store
    ``into``, so that nobody can change it behind the check. One from the network is kept
    there, too: with a ``sha256`` it is fetched once, without one the server is asked each
    time whether it has changed. size_limit: bytes; label: what progress calls
    the file, by default its name; session: one with the credentials and certificates that
    it takes. Proxies come from the environment. With SINGBUILD_OFFLINE=1 only the store is asked.
    Raises NotFoundError, SourceError, and HostError when the store cannot be written.
    """
    remote = Remote(url, sha256.lower(), label=label)
    if _scheme(url) == "file":
        return _local(remote, into, report, size_limit)
    if session:
        return _fetch(remote, into, report, size_limit, session)
    from singbuild.download import authorities  # it imports requests

    with authorities.session() as own:
        return _fetch(remote, into, report, size_limit, own)


def is_open_line(url: str) -> bool:
    """Whether a file comes by plain http, so that anybody on the way can put another in its place.

    By loopback, nobody is on the way.
    """
    parts = urlsplit(url)
    return parts.scheme.lower() == "http" and not is_loopback(parts.hostname or "")


def fetch_all(
    remotes: Sequence[Remote], into: Path, *, report: Reporter, label: str
) -> list[Fetched]:
    """Fetch files, a few at a time; return them in the same order.

    Progress counts the bytes of all under ``label``. The first error stops the rest.
    Raises as ``fetch`` does.
    """
    from singbuild.download import authorities  # it imports requests

    todo: queue.SimpleQueue[tuple[int, Remote]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Fetched] | BaseException] = queue.SimpleQueue()
    for numbered in enumerate(remotes):
        todo.put(numbered)
    shared = SharedProgress(report, label, sum(remote.size for remote in remotes))

    def work() -> None:
        try:
            with authorities.session() as session, contextlib.suppress(queue.Empty):
                while True:
                    number, remote = todo.get_nowait()
                    limit = remote.size or SIZE_LIMIT
                    done.put((number, _fetch(remote, into, shared.part(), limit, session)))
        except BaseException as error:
            done.put(error)

    # Daemons: Ctrl-C need not wait for a server that has fallen silent. In our context, which says
    # who named the servers (addresses.named_by).
    for _ in range(min(WORKERS, len(remotes))):
        threading.Thread(target=copy_context().run, args=(work,), daemon=True).start()
    try:
        return _collect(done, len(remotes))
    finally:
        shared.stop()


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


def _fetch(
    remote: Remote, into: Path, report: Reporter, limit: int, session: requests.Session
) -> Fetched:
    from singbuild.download.transfer import Transfer  # it imports requests

    scheme = _scheme(remote.url)
    if scheme == "file":
        return _local(remote, into, report, limit)
    if scheme in ("http", "https"):
        with _store_errors(into):
            into.mkdir(parents=True, exist_ok=True)
            return Transfer(remote, into, report, limit, session).run()
    raise SourceError(
        f"{public_url(remote.url)}: files cannot be fetched by {scheme}",
        remedy="Give an http:// or https:// URL, a file:// URL or a path.",
    )


def _scheme(url: str) -> str:
    return url.split("://")[0].lower() if "://" in url else "file"


def _local(remote: Remote, into: Path, report: Reporter, limit: int) -> Fetched:
    """Check a file of the host, or a copy of it."""
    location = unquote(urlsplit(remote.url).path) if "://" in remote.url else remote.url
    path = Path(location).absolute()
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "no such file"
            raise NotFoundError(f"{remote.url}: {what}", remedy="Correct the path.")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise SourceError(f"{remote.url}: cannot be read", why=why) from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise too_large(remote.url, limit)
        if not remote.sha256:
            return Fetched(path, hashlib.file_digest(file, "sha256").hexdigest(), size)
        with _store_errors(into):
            return keep_copy(remote, file, into, report)


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
