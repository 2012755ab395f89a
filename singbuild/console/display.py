"""What the user sees of a build: phases, their output, elapsed time, progress.

Three forms of one thing: live on a terminal (rich), plain lines in a pipe, one
JSON object a line with ``--json``. Everything also goes to the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self, TextIO

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from singbuild.console import events
from singbuild.console.events import Event
from singbuild.console.sizes import binary
from singbuild.errors import SingbuildError, UsageError

HEARTBEAT = 60.0  # seconds; many a CI service ends a job that says nothing for some minutes
HEARTBEAT_VARIABLE = "SINGBUILD_HEARTBEAT"


class Console:
    """Plain lines, and the base of the other forms.

    quiet: show only warnings and errors; heartbeat: seconds of silence after which a line
    says that the build is alive. log: set it to an open text file, and the
    file gets everything. hide: what all text passes through before anybody sees it; watchers: get
    each event too. A Console is a context manager: inside, hearts beat and displays live.
    """

    error_prefix, warning_prefix = "singbuild: error: ", "singbuild: warning: "
    """Of the whole program, which another command than singbuild sets when it starts."""

    def __init__(self, out: TextIO, *, quiet: bool = False, heartbeat: float = HEARTBEAT) -> None:
        self.log: TextIO | None = None
        self.hide: Callable[[str], str] = str
        self.watchers: list[Callable[[Event], None]] = []
        self._out, self._quiet, self._heartbeat = out, quiet, heartbeat
        self._began = self._last = time.monotonic()
        self._phase = ""
        self._warned: set[str] = set()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._relay = -1

    def relay(self, fd: int) -> None:
        """Send all that is to be shown to another process from now on. fd: a pipe that it reads.

        In a process that was forked: of the threads and locks of the other it has none.
        """
        self._lock, self._relay = threading.RLock(), fd

    def repeat(self, fd: int) -> None:
        """Show what another process sends, until it ends."""
        with os.fdopen(fd) as lines:
            for line in lines:
                name, fields = json.loads(line)
                self._tell(name, **fields)

    def __enter__(self) -> Self:
        self._ended.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else for the time of a with-block."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def start(self, recipe: str, image: str, steps: Sequence[str] = ()) -> None:
        """Say what is built from what. steps: the phases to come, by name."""
        self._tell("start", version=events.VERSION, recipe=recipe, image=image, steps=[*steps])

    def phase(self, name: str, reason: str) -> None:
        """Begin a phase of the plan."""
        self._phase = name
        self._tell("phase", name=name, reason=reason)

    def line(self, text: str) -> None:
        """Show one line of what the phase prints."""
        self._tell("line", text=text)

    def cache(self, stage: str, why: str, *, hit: bool, unchanged: Iterable[str] = ()) -> None:
        """Say whether a stage of an earlier build is taken, and why.

        unchanged: names of the inputs that were compared, for the log and for programs.
        """
        self._tell("cache", stage=stage, hit=hit, why=why, unchanged=[*unchanged])

    def warn(self, text: str) -> None:
        """Show a warning, even when quiet; once, though every phase may come upon its cause."""
        if text not in self._warned:
            self._warned.add(text)
            self._tell("warning", text=text)

    def progress(self, label: str, done: int, total: int) -> None:
        """Show how far the phase is; plain lines only say when it is complete."""
        self._tell("progress", label=label, done=done, total=total)

    def error(self, error: SingbuildError, log: Path | None) -> None:
        """Show an error: what, why, what to do, and where the log is."""
        fields = {"what": error.what, "why": error.why, "remedy": error.remedy, "text": str(error)}
        place = {"path": "", "line": 0, "column": 0, "section": ""}
        place |= {name: getattr(error, name) for name in place if hasattr(error, name)}
        if error.__cause__ and self.log:
            self._record(self.hide("".join(traceback.format_exception(error.__cause__)).rstrip()))
        self._tell("error", status=error.status, **fields, **place, log=str(log) if log else "")

    def difference(self, kind: str, path: str, details: Sequence[Mapping[str, str]]) -> None:
        """Say in what a path of two builds differs: added, removed or changed, and how."""
        self._tell("difference", kind=kind, path=path, details=[dict(each) for each in details])

    def reproducible(self, *, same: bool, differing: int, surroundings: Mapping[str, str]) -> None:
        """Say whether two builds are the same, and what was otherwise in the second."""
        facts = {"differing": differing, "surroundings": dict(surroundings)}
        self._tell("reproducible", same=same, **facts)

    def done(self, image: str, size: int, digest: str = "") -> None:
        """Say what came out. size: bytes; digest: of the content, as the image records it."""
        self._tell("done", image=image, bytes=size, digest=digest)

    def _tell(self, event_name: str, /, **fields: Any) -> None:
        if self._relay >= 0:
            os.write(self._relay, f"{json.dumps([event_name, fields])}\n".encode())
            return
        with self._lock:
            masked = {name: self._mask(value) for name, value in fields.items()}
            event = Event(event_name, self.seconds, masked)
            if event.logged:
                self._record(event.logged)
            for watcher in self.watchers:
                watcher(event)
            self._show(event)
            self._last = time.monotonic()

    def _mask(self, value: Any) -> Any:
        """A field's value as it may be shown."""
        if isinstance(value, list):
            return [self._mask(each) for each in value]
        if isinstance(value, dict):
            return {name: self._mask(each) for name, each in value.items()}
        return events.printable(self.hide(value)) if isinstance(value, str) else value

    def _beat(self) -> None:
        """Break every long silence, until the build ends."""
        while not self._ended.wait(self._last + self._heartbeat - time.monotonic()):
            if time.monotonic() >= self._last + self._heartbeat:
                self._tell("heartbeat", phase=self._phase)

    def _show(self, event: Event) -> None:
        if event.name == "error":
            print(f"{_red(self.error_prefix)}{event['text']}", file=sys.stderr)
            if event["log"]:
                print(f"The full log: {event['log']}", file=sys.stderr)
            sys.stderr.flush()
        elif event.name == "warning":
            print(f"{self.warning_prefix}{event['text']}", file=sys.stderr, flush=True)
        elif not self._quiet and (text := self._plain(event)):
            self._print(text)

    def _plain(self, event: Event) -> str:
        """Return an event as a line; "" for one that is not shown."""
        match event.name:
            case "start":
                return f"Building {event['image']} from {event['recipe']}"
            case "phase":
                return f"[{event.seconds:6.1f}s] {event['name']}: {event['reason']}"
            case "cache":
                return f"    cache: {event['stage']}: {event['why']}"
            case "line" | "difference" | "reproducible":
                return "\n".join(f"    {line}" for line in event.logged.splitlines())
            case "heartbeat":
                return f"[{event.seconds:6.1f}s] {event['phase']}: still at work"
            case "done":
                return f"[{event.seconds:6.1f}s] {event['image']}: {binary(event['bytes'])}"
        return ""

    def _print(self, text: str) -> None:
        """Print; a reader that has closed the pipe (``| head``) does not end the build."""
        try:
            self._out.write(f"{text}\n")  # at once: an interruption never splits a line
            self._out.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def _record(self, text: str) -> None:
        if self.log:
            try:
                print(f"{self.seconds:8.2f} {text}", file=self.log, flush=True)
            except OSError as error:
                self.log = None
                self.warn(f"the log cannot be written any further: {error.strerror}")


STYLES = {"start": "bold", "phase": "bold", "done": "bold green", "line": "dim", "cache": "dim"}
LEAST_BYTES = 1 << 16  # contract.Reporter: so many are taken as bytes; packages are fewer
NARROW = 80  # columns, below which the bar and the label give way to the numbers


class LiveConsole(Console):
    """On a terminal: finished lines scroll, the phase, its time and a bar stay below them."""

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet)
        self._terminal = Terminal(file=out, highlight=False, soft_wrap=True)
        self._narrow = self._terminal.width < NARROW
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
        if not self._narrow:
            columns.append(BarColumn(bar_width=20))
        self._progress = Progress(
            *columns,
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._terminal,
            transient=True,
            disable=quiet,
        )
        self._task = self._progress.add_task("", total=None, count="", visible=False)
        self._label, self._label_began = "", 0.0
        self._process = os.getpid()

    def __enter__(self) -> Self:
        self._progress.start()
        # Only the main thread may have handlers, and a shell without job control ignores the signal.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
        ):
            signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGTSTP) == self._suspend:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        self._progress.stop()

    def _suspend(self, number: int, _frame: FrameType | None) -> None:
        """Stop as Ctrl-Z asks for, with the cursor shown while the shell has the terminal."""
        live = os.getpid() == self._process and self._progress.live.is_started
        if live:
            self._progress.stop()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # returns when the shell lets it go on
        signal.signal(number, self._suspend)
        if live:
            self._progress.start()

    def _show(self, event: Event) -> None:
        if event.name == "error":
            self._progress.stop()
            super()._show(event)
        elif event.name == "warning":
            self._scroll(Text(event.logged, style="yellow"))
        elif event.name == "progress":
            self._advance(event["label"], event["done"], event["total"])
        elif not self._quiet and (text := self._plain(event)):
            if event.name in ("start", "phase"):  # ours; what a program prints stays as it is
                text = _wrapped(text, self._terminal.width)
            # Text, not markup: what a build prints may hold square brackets.
            self._scroll(Text(text, style=STYLES.get(event.name, "")))
        if event.name == "phase":
            self._label = ""
            self._progress.reset(
                self._task, description=self._phase, total=None, count="", visible=True, start=True
            )

    def _scroll(self, text: Text) -> None:
        self._progress.console.print(text)

    def _advance(self, label: str, done: int, total: int) -> None:
        """Show how much is done, and how fast.

        The task never becomes complete, whose clock and spinner rich would stop: the phase goes on.
        """
        now = self.seconds
        if label != self._label:
            self._label, self._label_began = label, now
        count = counted(label, done, total, now - self._label_began)
        if self._narrow:
            count = count.removeprefix(f"{label} ")
        share = min(done / total, 0.999) if total else None
        self._progress.update(
            self._task, completed=share or 0, total=None if share is None else 1, count=count
        )


def counted(label: str, done: int, total: int, seconds: float) -> str:
    """Return how much is done: bytes with units and their rate, few things by their number.

    seconds: since the first of it.
    """
    if max(done, total) < LEAST_BYTES:
        return f"{label} {done}/{total}" if total else f"{label} {done}"
    shown = binary(done)
    if total:
        number, unit = binary(total).split()
        shown = f"{float(number) * done / total:.1f}/{number} {unit}"
    if seconds > 1 and done:
        shown += f", {binary(int(done / seconds))}/s"
        if total > done:
            shown += f", {_span(seconds / done * (total - done))} left"
    return f"{label.removesuffix('bytes')} {shown}".lstrip()


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _wrapped(text: str, width: int) -> str:
    """Return text in lines that break between words, and never in a path."""
    indent = "    "
    return textwrap.fill(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _red(text: str) -> str:
    """Return text as it stands out on standard error, if that is a terminal that has colours."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
    return text if plain or not sys.stderr.isatty() else f"\x1b[1;31m{text}\x1b[0m"


class JsonConsole(Console):
    """One JSON object a line on standard output, nothing else."""

    def _show(self, event: Event) -> None:
        head = {"event": event.name, "seconds": round(event.seconds, 3)}
        self._print(json.dumps(head | dict(event.fields)))


def choose(out: TextIO, *, as_json: bool, quiet: bool) -> Console:
    """Return the form that suits where the output goes. Raises UsageError as ``heartbeat``."""
    if as_json:
        return JsonConsole(out, heartbeat=heartbeat())
    if out.isatty():
        return LiveConsole(out, quiet=quiet)
    return Console(out, quiet=quiet, heartbeat=heartbeat())


def heartbeat() -> float:
    """Return the seconds of silence that are too many. Raises UsageError for what is no number."""
    text = os.environ.get(HEARTBEAT_VARIABLE, str(HEARTBEAT))
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or not float(text):
        raise UsageError(
            f"{HEARTBEAT_VARIABLE} is {text!r}",
            remedy="Set it to seconds, such as 60, or unset it.",
        )
    return float(text)
