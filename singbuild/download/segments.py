"""One body by several connections, where the first is slow: many servers limit each connection.

What follows is asked for by ranges (RFC 9110 section 14), a few ahead, and handed on in order. So
a part stays the beginning of its file, and can be hashed, read and resumed as ever.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from itertools import islice

import requests

SEGMENT = 4 << 20  # bytes
LEAST = 4 * SEGMENT  # bytes that have to be left
FAST = 32 << 20  # bytes a second: so quick a connection needs no help
CONNECTIONS = 4  # for one body
_ALL = threading.BoundedSemaphore(6)  # for all of this process
_PIECE = 1 << 16

Ask = Callable[[int, int], requests.Response]


class NoRangesError(Exception):
    """The server does not send what it was asked for: it takes no ranges, or not so many."""


def pieces(answer: requests.Response, begin: int, total: int, ask: Ask) -> Iterator[bytes]:
    """Yield a body from its byte ``begin`` on. total: its bytes; ask: for those from A to before B.

    answer: the whole from ``begin`` on, to begin with. Raises what requests does, and
    NoRangesError once something has been yielded.
    """
    at, seconds = begin, 0.0
    body = answer.raw.stream(_PIECE, decode_content=False)
    while True:
        start = time.monotonic()
        piece = next(body, b"")
        seconds += time.monotonic() - start
        if not piece:
            return
        yield piece
        at += len(piece)
        if at - begin >= SEGMENT:
            break
    if total - at < LEAST or at - begin > FAST * seconds:
        yield from body
        return
    answer.close()
    starts = iter(range(at, total, SEGMENT))
    waiting: deque[Future[bytes]] = deque()
    while True:
        for start in islice(starts, CONNECTIONS - len(waiting)):
            waiting.append(_begun(ask, start, min(start + SEGMENT, total)))
        if not waiting:
            return
        yield waiting.popleft().result()


def _begun(ask: Ask, begin: int, end: int) -> Future[bytes]:
    """Return a segment that a thread of its own is fetching."""
    future: Future[bytes] = Future()

    def fetch() -> None:
        try:
            with _ALL, ask(begin, end) as answer:
                future.set_result(_segment(answer, begin, end))
        except BaseException as error:
            future.set_exception(error)

    # In the context of who asks, which says who named the server (addresses.named_by). A daemon:
    # Ctrl-C need not wait for a server that has fallen silent.
    threading.Thread(target=copy_context().run, args=(fetch,), daemon=True).start()
    return future


def _segment(answer: requests.Response, begin: int, end: int) -> bytes:
    place = answer.headers.get("Content-Range", "")
    is_part = answer.status_code == requests.codes.partial_content
    if not is_part or not place.startswith(f"bytes {begin}-{end - 1}/"):
        raise NoRangesError
    data = answer.raw.read(end - begin, decode_content=False)
    if len(data) != end - begin:
        raise requests.ConnectionError("a part of the file is too short")
    return bytes(data)
