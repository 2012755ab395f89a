"""One progress bar for files that several threads fetch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from singbuild.contract import Reporter
from singbuild.errors import SourceError


class SharedProgress:
    """Counts the bytes of all files under one label. total: bytes of all, 0 if unknown."""

    def __init__(self, report: Reporter, label: str, total: int) -> None:
        self.report, self.label, self.total = report, label, total
        self.done = 0
        self._lock = threading.Lock()
        self._stopped = False

    def part(self) -> Reporter:
        """Return the Reporter of one of the files."""
        return _Part(self)

    def stop(self) -> None:
        """Have every thread that fetches end with the next bytes that arrive."""
        with self._lock:
            self._stopped = True

    def check_running(self) -> None:
        """Raise SourceError once ``stop`` was called."""
        if self._stopped:
            raise SourceError(f"{self.label}: stopped")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread report at a time, and none after the stop. Raises SourceError."""
        with self._lock:
            self.check_running()
            yield


class _Part:
    """The Reporter of one file."""

    def __init__(self, shared: SharedProgress) -> None:
        self._shared, self._done = shared, 0

    def line(self, text: str) -> None:
        with self._shared.turn():
            self._shared.report.line(text)

    def warn(self, text: str) -> None:
        with self._shared.turn():
            self._shared.report.warn(text)

    def progress(self, label: str, done: int, total: int) -> None:  # noqa: ARG002 - of one file
        with self._shared.turn():
            self._shared.done += done - self._done
            self._done = done
            self._shared.report.progress(self._shared.label, self._shared.done, self._shared.total)
