"""Layers become archives: read and inflated in one thread, hashed and unpacked in two others.

    Read ─▶ sha256 = digest ─▶ inflate ─▶ sha256 = diff id ─▶ a few pieces wait ─▶ Rootfs.unpack

The digest of a layer that a download has checked already is not computed again.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from singbuild import SingbuildError, SourceError
from singbuild.compression import inflated
from singbuild_docker.image import Read
from singbuild_docker.manifest import Layer

WAITING = 24  # pieces of at most a mebibyte

_Piece = bytes | BaseException | None


@contextmanager
def archives(layers: Sequence[Layer], read: Read) -> Iterator[Iterator[Iterator[bytes]]]:
    """Yield the layers' archives, the lowest first; each must be taken whole before the next.

    What is wrong with a layer is raised by its archive, at its end at the latest.
    """
    pieces: queue.Queue[_Piece] = queue.Queue(WAITING)
    ended = threading.Event()
    # A daemon: it may wait for a server that has fallen silent when the build ends.
    worker = threading.Thread(target=_work, args=(layers, read, pieces, ended), daemon=True)
    worker.start()
    current = ""

    def each() -> Iterator[Iterator[bytes]]:
        nonlocal current
        for layer in layers:
            current = layer.digest or layer.diff_id
            yield _until_end(pieces)

    try:
        yield each()
    except SingbuildError as error:
        what = f"layer {current}: {error.what}"
        raise type(error)(what, why=error.why, remedy=error.remedy) from error
    finally:
        ended.set()
        with suppress(queue.Empty):  # it may be waiting for room
            while True:
                pieces.get_nowait()


class _EndedError(Exception):
    """Nobody takes the pieces any more."""


def _work(
    layers: Sequence[Layer], read: Read, pieces: queue.Queue[_Piece], ended: threading.Event
) -> None:
    def put(piece: _Piece) -> None:
        pieces.put(piece)
        if ended.is_set():
            raise _EndedError

    with suppress(_EndedError):
        try:
            for layer in layers:
                for piece in verified(layer, read):
                    put(piece)
                put(None)
        except Exception as error:
            put(error)


def verified(layer: Layer, read: Read) -> Iterator[bytes]:
    """Yield a layer's archive. Raises SourceError, at the end, if it is not what it should be."""
    total = hashlib.sha256()
    with ThreadPoolExecutor(1, "diff id") as hashing:
        last: Future[None] = hashing.submit(total.update, b"")
        for piece in inflated(read(layer), layer.packing):
            last.result()
            last = hashing.submit(total.update, piece)
            yield piece
    check_digest(total.hexdigest(), layer.diff_id, "its archive")


def check_digest(actual: str, expected: str, what: str) -> None:
    """Refuse what does not have its digest."""
    if f"sha256:{actual}" != expected:
        raise SourceError(
            f"{what} has the wrong SHA-256",
            why=f"expected {expected}\n     got sha256:{actual}",
            remedy="Find out who made the image, and have it repaired.",
        )


def _until_end(pieces: queue.Queue[_Piece]) -> Iterator[bytes]:
    while (piece := pieces.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        yield piece
