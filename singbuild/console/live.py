"""A build on a terminal: lines scroll, the phase and its progress stay below them."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from collections import deque
from types import FrameType
from typing import Self, TextIO

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

from singbuild.console.display import Console
from singbuild.console.events import Event
from singbuild.console.sizes import binary

STYLES = {"start": "bold", "phase": "bold", "done": "bold green", "line": "dim", "cache": "dim"}
LEAST_BYTES = 1 << 16  # contract.Reporter: so many are taken as bytes; packages are fewer
REPEATED = 50  # lines of programs that are remembered: more than an error repeats
OURS = ("", "resolve", "scratch", "metadata", "seal", "finish")
"""Phases in which no program of the recipe's prints: lines break between words."""
SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"  # console_codes(4), DECTCEM
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
        self._scrolled: deque[str] = deque(maxlen=REPEATED)

    def __enter__(self) -> Self:
        self._progress.start()
        # Only the main thread may have handlers; a shell without job control ignores the signal.
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
        """Stop as Ctrl-Z asks for, with the cursor shown while the shell has the terminal.

        The codes are written past rich: the interrupted thread may hold its lock or its buffer.
        """
        is_live = os.getpid() == self._process and self._progress.live.is_started
        if is_live:
            os.write(self._terminal.file.fileno(), SHOW_CURSOR)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # returns when the shell lets it go on
        signal.signal(number, self._suspend)
        if is_live:
            os.write(self._terminal.file.fileno(), HIDE_CURSOR)

    def _show(self, event: Event) -> None:
        if event.name == "error":
            self._progress.stop()
            if sys.stderr.isatty() and not self._quiet:
                event = self._without_what_scrolled(event)
            super()._show(event)
            if event["section"] and self.after_section:
                print(self.after_section, file=sys.stderr, flush=True)
        elif event.name == "warning":
            self._scroll(Text(_wrapped(event.logged, self._terminal.width), style="yellow"))
        elif event.name == "progress":
            self._advance(event["label"], event["done"], event["total"])
        elif not self._quiet and (text := self._plain(event)):
            if event.name == "line":
                self._scrolled.append(text.strip())
            if event.name in ("start", "phase") or self._phase in OURS:
                text = _wrapped(text, self._terminal.width)
            # Text, not markup: what a build prints may hold square brackets.
            self._scroll(Text(text, style=STYLES.get(event.name, "")))
        if event.name == "phase":
            self._label = ""
            self._progress.reset(
                self._task, description=self._phase, total=None, count="", visible=True, start=True
            )

    def _without_what_scrolled(self, event: Event) -> Event:
        """Return an error without the program's last lines, which stand right above it."""
        why = event["why"].splitlines()
        while why and self._scrolled and why[-1].strip() == self._scrolled[-1]:
            why.pop()
            self._scrolled.pop()
        text = "\n".join(part for part in (event["what"], *why, event["remedy"]) if part)
        return Event(event.name, event.seconds, {**event.fields, "text": text})

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

    seconds: since the first was counted.
    """
    if max(done, total) < LEAST_BYTES:
        return f"{label} {done}/{total}" if total else f"{label} {done}"
    amount = binary(done)
    if total:
        number, unit = binary(total).split()
        amount = f"{float(number) * done / total:.1f}/{number} {unit}"
    if seconds > 1 and done:
        amount += f", {binary(int(done / seconds))}/s"
        if total > done:
            amount += f", {_span(seconds / done * (total - done))} left"
    return f"{label.removesuffix('bytes')} {amount}".lstrip()


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _wrapped(text: str, width: int) -> str:
    """Return text in lines that break between words, and never in a path."""
    lines = []
    for line in text.split("\n"):
        indent = "    " + line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)
