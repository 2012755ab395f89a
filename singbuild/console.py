"""What the user sees of a build: phases, their output, elapsed time, progress.

Three forms of one thing: live on a terminal (rich), plain lines in a pipe, one
JSON object a line with ``--json``. Everything also goes to the log.

JSON events, version 1, each with ``event`` and ``seconds`` since the start::

    {"event": "start",    "version": 1, "recipe": "…", "image": "…"}
    {"event": "phase",    "name": "post", "reason": "…"}
    {"event": "line",     "text": "…"}
    {"event": "warning",  "text": "…"}
    {"event": "progress", "label": "…", "done": 12, "total": 88}
    {"event": "error",    "status": 7, "what": "…", "why": "…", "remedy": "…", "log": "…"}
    {"event": "done",     "image": "…", "bytes": 4210688}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from singbuild.errors import SingbuildError

EVENTS_VERSION = 1


class Console:
    """Plain lines, and the base of the other forms.

    quiet: show only warnings and errors; log: set it to an open text file, and the
    file gets everything. A Console is a context manager, so that a live display
    ends with it.
    """

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self.log: TextIO | None = None
        self._out, self._quiet = out, quiet
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def start(self, recipe: str, image: str) -> None:
        """Say what is built from what."""
        self._record(f"building {image} from {recipe}")
        self._show(f"Building {image} from {recipe}")

    def phase(self, name: str, reason: str) -> None:
        """Begin a phase of the plan."""
        self._record(f"== {name}: {reason}")
        self._show(f"[{self.seconds:6.1f}s] {name}: {reason}")

    def line(self, text: str) -> None:
        """Show one line of what the phase prints."""
        self._record(text)
        self._show(f"    {text}")

    def warn(self, text: str) -> None:
        """Show a warning, even when quiet."""
        self._record(f"warning: {text}")
        print(f"singbuild: warning: {text}", file=sys.stderr, flush=True)

    def progress(self, label: str, done: int, total: int) -> None:
        """Show how far the phase is; plain lines only say when it is complete."""
        if total and done == total:
            self._record(f"{label}: {total}")

    def error(self, error: SingbuildError, log: Path | None) -> None:
        """Show an error: what, why, what to do, and where the log is."""
        self._record(f"error: {error}")
        print(f"singbuild: error: {error}", file=sys.stderr)
        if log:
            print(f"The full log: {log}", file=sys.stderr)
        sys.stderr.flush()

    def done(self, image: str, size: int) -> None:
        """Say what came out. size: bytes."""
        self._show(f"[{self.seconds:6.1f}s] {image}: {size / (1 << 20):.1f} MiB")

    def _show(self, text: str) -> None:
        if not self._quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        """Print; when nobody reads any more, as behind ``| head``, go on without."""
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def _record(self, text: str) -> None:
        if self.log:
            try:
                print(f"{self.seconds:8.2f} {text}", file=self.log, flush=True)
            except OSError as error:
                self.log = None
                self.warn(f"the log cannot be written any further: {error.strerror}")


class LiveConsole(Console):
    """On a terminal: finished lines scroll, the phase, its time and a bar stay below them."""

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet)
        self._terminal = Terminal(file=out, highlight=False, soft_wrap=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._terminal,
            transient=True,
            disable=quiet,
        )
        self._task = self._progress.add_task("", total=None, count="", visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, reason: str) -> None:
        super().phase(name, reason)
        self._progress.reset(
            self._task, description=name, total=None, count="", visible=True, start=True
        )

    def progress(self, label: str, done: int, total: int) -> None:
        super().progress(label, done, total)
        count = f"{label} {done}/{total}" if total else f"{label} {done}"
        self._progress.update(self._task, completed=done, total=total or None, count=count)

    def warn(self, text: str) -> None:
        self._record(f"warning: {text}")
        self._progress.console.print(Text(f"warning: {text}", style="yellow"))

    def error(self, error: SingbuildError, log: Path | None) -> None:
        self._progress.stop()
        super().error(error, log)

    def _show(self, text: str) -> None:
        if not self._quiet:
            # Text, not markup: what a build prints may hold square brackets.
            self._progress.console.print(Text(text))


class JsonConsole(Console):
    """One JSON object a line on standard output, nothing else."""

    def start(self, recipe: str, image: str) -> None:
        self._record(f"building {image} from {recipe}")
        self._event("start", {"version": EVENTS_VERSION, "recipe": recipe, "image": image})

    def phase(self, name: str, reason: str) -> None:
        self._record(f"== {name}: {reason}")
        self._event("phase", {"name": name, "reason": reason})

    def line(self, text: str) -> None:
        self._record(text)
        self._event("line", {"text": text})

    def warn(self, text: str) -> None:
        self._record(f"warning: {text}")
        self._event("warning", {"text": text})

    def progress(self, label: str, done: int, total: int) -> None:
        self._event("progress", {"label": label, "done": done, "total": total})

    def error(self, error: SingbuildError, log: Path | None) -> None:
        self._record(f"error: {error}")
        fields = {"status": error.status, "what": error.what, "why": error.why}
        self._event("error", fields | {"remedy": error.remedy, "log": str(log) if log else ""})

    def done(self, image: str, size: int) -> None:
        self._event("done", {"image": image, "bytes": size})

    def _event(self, name: str, fields: Mapping[str, Any]) -> None:
        event = {"event": name, "seconds": round(self.seconds, 3)} | dict(fields)
        self._print(json.dumps(event))


def choose(out: TextIO, *, as_json: bool, quiet: bool) -> Console:
    """Return the form that suits where the output goes."""
    if as_json:
        return JsonConsole(out)
    return LiveConsole(out, quiet=quiet) if out.isatty() else Console(out, quiet=quiet)
