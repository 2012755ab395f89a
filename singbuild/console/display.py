"""What the user sees of a build: phases, their output, elapsed time, progress.

Three forms of one thing: live on a terminal (``live``), plain lines in a pipe, one
JSON object a line with ``--json``. Everything also goes to the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from singbuild.console import events
from singbuild.console.events import Event
from singbuild.console.sizes import binary
from singbuild.errors import SingbuildError

HEARTBEAT = 60.0  # seconds; many a CI service ends a job that says nothing for some minutes


class Console:
    """Plain lines, and the base of the other forms.

    quiet: show only warnings and errors; heartbeat: seconds of silence after which a line
    says that the build is alive. log: set it to an open text file, and the
    file gets everything. hide: what all text passes through before anybody sees it; watchers: get
    each event too. A Console is a context manager: in its block heartbeats and live displays run.
    """

    error_prefix, warning_prefix = "singbuild: error: ", "singbuild: warning: "
    """Of the whole program, which another command than singbuild sets when it starts."""
    after_section = ""
    """What to say, on a terminal, below the error of a section."""

    def __init__(self, out: TextIO, *, quiet: bool = False, heartbeat: float = HEARTBEAT) -> None:
        self.log: TextIO | None = None
        self.hide: Callable[[str], str] = str
        self.watchers: list[Callable[[Event], None]] = []
        self._out, self._quiet, self._heartbeat = out, quiet, heartbeat
        self._began = self._last = time.monotonic()
        self._phase = ""
        self._warned: set[str] = set()
        # One thread may take it twice: a log that cannot be written is warned of amid an event.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._relay = -1

    def relay(self, fd: int) -> None:
        """Send all that is to be shown to another process from now on. fd: a pipe that it reads.

        In a process that was forked: of the threads and locks of the other it has none.
        """
        self._lock, self._relay = threading.RLock(), fd

    def repeat(self, fd: int) -> None:
        """Show what another process sends, until it ends.

        fd: the other end of its pipe.
        """
        with os.fdopen(fd) as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break  # the process was killed while it wrote this one
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
        """Print; neither a closed pipe (``| head``) nor a full disk ends the build."""
        try:
            self._out.write(f"{text}\n")  # at once: an interruption never splits a line
            self._out.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
            if not isinstance(error, BrokenPipeError):
                what = f"standard output cannot be written any further: {error.strerror}"
                print(f"{self.warning_prefix}{what}", file=sys.stderr, flush=True)

    def _record(self, text: str) -> None:
        if self.log:
            try:
                print(f"{self.seconds:8.2f} {text}", file=self.log, flush=True)
            except OSError as error:
                self.log = None
                self.warn(f"the log cannot be written any further: {error.strerror}")


def _red(text: str) -> str:
    """Return text as it stands out on standard error, if that is a terminal that has colours."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
    return text if plain or not sys.stderr.isatty() else f"\x1b[1;31m{text}\x1b[0m"


class JsonConsole(Console):
    """One JSON object a line on standard output, nothing else."""

    def _show(self, event: Event) -> None:
        head = {"event": event.name, "seconds": round(event.seconds, 3)}
        self._print(json.dumps(head | dict(event.fields)))


def heartbeat() -> float:
    """Return the seconds of silence that are too many. Raises UsageError for what is no number."""
    from singbuild import variables  # not before it is known what is wanted

    return variables.seconds("SINGBUILD_HEARTBEAT", HEARTBEAT)
