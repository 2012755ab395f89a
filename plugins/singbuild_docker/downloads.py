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

from singbuild import Reporter
from singbuild.download import Fetched, SharedProgress
from singbuild_docker.image import Store
from singbuild_docker.manifest import Layer

WORKERS = 4
PIECE = 1 << 18  # bytes
NAP = 0.005  # seconds between two looks at a file that grows

Bring = Callable[[Layer, Reporter], Fetched]


class LayerDownloads:
    """Layers that are being fetched; a context manager, whose end stops what still runs."""

    def __init__(self, layers: Sequence[Layer], store: Store, bring: Bring) -> None:
        self.store, self.bring = store, bring
        self.layers = list({layer.digest: layer for layer in layers}.values())
        count = f"{len(self.layers)} layer{'s' * (len(self.layers) != 1)}"
        total = sum(layer.size for layer in self.layers)
        self._shared = SharedProgress(store.report, f"Fetching {count}", total)
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
        self._shared.stop()

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
                    self._shared.check_running()
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
                    future.set_result(self.bring(layer, self._shared.part()))
                # Not Exception: whoever waits for the layer would wait for ever.
                except BaseException as error:
                    future.set_exception(error)

    def _wait(self, future: Future[Fetched]) -> None:
        while not future.done():
            self._shared.check_running()
            time.sleep(NAP)

    def _growing(self, layer: Layer) -> BinaryIO | None:
        try:
            return self._path(layer, ".part").open("rb", buffering=0)
        except FileNotFoundError:
            return None  # not begun, or just finished

    def _final(self, fetched: Fetched, file: BinaryIO | None) -> BinaryIO:
        """Return the finished file: the one that grew, unless that was thrown away."""
        if file and os.path.samestat(os.fstat(file.fileno()), fetched.path.stat()):
            return file
        if file:
            file.close()
        return fetched.path.open("rb", buffering=0)

    def _path(self, layer: Layer, suffix: str) -> Path:
        return self.store.path / (layer.digest.removeprefix("sha256:") + suffix)
