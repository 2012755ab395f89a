"""Layers on their way into the store: fetched several at a time, readable while they arrive.

A reader follows the part file that a download grows, so that unpacking begins with the first
bytes. What it reads is checked twice at the end: the store's file against the layer's digest
by the download, the archive against its diff id by the reader. Either failing ends the build.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from singbuild import Reporter, SourceError
from singbuild.download import Fetched
from singbuild_docker.image import Store
from singbuild_docker.manifest import Layer

WORKERS = 4
PIECE = 1 << 18  # bytes
NAP = 0.005  # seconds between two looks at a file that grows

Bring = Callable[[Layer, Reporter], Fetched]


class Arriving:
    """Layers that are being fetched; a context manager, whose end stops what still runs."""

    def __init__(self, layers: Sequence[Layer], store: Store, bring: Bring) -> None:
        self.store, self.bring = store, bring
        self.layers = list({layer.digest: layer for layer in layers}.values())
        self._whole = _Whole(store.report, self.layers)
        self._futures: dict[str, Future[Fetched]] = {each.digest: Future() for each in self.layers}
        # Whatever is in the store is read when it has been verified, not before.
        self._stored = {each.digest for each in self.layers if self._path(each, "").exists()}

    def __enter__(self) -> Self:
        todo: queue.SimpleQueue[Layer] = queue.SimpleQueue()
        for layer in self.layers:
            have = "Using cached" if layer.digest in self._stored else "Downloading"
            self.store.report.line(f"{have} layer: {layer.digest}")
            todo.put(layer)
        # Daemons: Ctrl-C need not wait for a server that has fallen silent.
        for _ in range(min(WORKERS, len(self.layers))):
            threading.Thread(target=self._work, args=(todo,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._whole.stop()

    def read(self, layer: Layer) -> Iterator[bytes]:
        """Yield a layer's bytes as they arrive. Raises what fetching it raises."""
        future = self._futures[layer.digest]
        if layer.digest in self._stored:
            self._wait(future)
        file: BinaryIO | None = None
        at = 0
        try:
            while True:
                is_whole = future.done()  # asked first, so that nothing comes after the last look
                if is_whole:
                    file = self._final(future.result(), file)
                else:
                    file = file or self._growing(layer)
                piece = os.pread(file.fileno(), PIECE, at) if file else b""
                if piece:
                    at += len(piece)
                    yield piece
                elif is_whole:
                    return
                else:
                    self._whole.check_running()
                    time.sleep(NAP)
        finally:
            if file:
                file.close()

    def _work(self, todo: queue.SimpleQueue[Layer]) -> None:
        with suppress(queue.Empty):
            while True:
                layer = todo.get_nowait()
                future = self._futures[layer.digest]
                try:
                    future.set_result(self.bring(layer, _Share(self._whole)))
                except BaseException as error:
                    future.set_exception(error)

    def _wait(self, future: Future[Fetched]) -> None:
        while not future.done():
            self._whole.check_running()
            time.sleep(NAP)

    def _growing(self, layer: Layer) -> BinaryIO | None:
        try:
            return self._path(layer, ".part").open("rb", buffering=0)
        except FileNotFoundError:
            return None  # not begun, or just finished

    def _final(self, got: Fetched, file: BinaryIO | None) -> BinaryIO:
        """Return the finished file: the one that grew, unless that was thrown away."""
        if file and os.path.samestat(os.fstat(file.fileno()), got.path.stat()):
            return file
        if file:
            file.close()
        return got.path.open("rb", buffering=0)

    def _path(self, layer: Layer, suffix: str) -> Path:
        return self.store.path / (layer.digest.removeprefix("sha256:") + suffix)


class _Whole:
    """One progress bar for all layers."""

    def __init__(self, report: Reporter, layers: Sequence[Layer]) -> None:
        self.report, self.total = report, sum(layer.size for layer in layers)
        self.label = f"Fetching {len(layers)} layer{'s' * (len(layers) != 1)}"
        self.lock = threading.Lock()
        self.done = 0
        self._stopped = False

    def stop(self) -> None:
        """Make the threads end with the next bytes that arrive."""
        with self.lock:
            self._stopped = True

    def check_running(self) -> None:
        """Raise SourceError when nobody wants the layers any more."""
        if self._stopped:
            raise SourceError(f"{self.label}: stopped")


class _Share:
    """The Reporter of one layer's download."""

    def __init__(self, whole: _Whole) -> None:
        self.whole, self.seen = whole, 0

    def line(self, text: str) -> None:
        """Pass a line on."""
        with self.whole.lock:
            self.whole.check_running()
            self.whole.report.line(text)

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        with self.whole.lock:
            self.whole.check_running()
            self.whole.report.warn(text)

    def progress(self, label: str, done: int, total: int) -> None:  # noqa: ARG002 - one of many
        """Add what has arrived of this layer to what has arrived of all."""
        with self.whole.lock:
            self.whole.check_running()
            self.whole.done += done - self.seen
            self.seen = done
            self.whole.report.progress(self.whole.label, self.whole.done, self.whole.total)
