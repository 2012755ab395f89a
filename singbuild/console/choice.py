"""Chooses the form of output: live on a terminal, lines in a pipe, JSON by --json."""

from __future__ import annotations

from typing import TextIO

from singbuild.console import display


def choose(out: TextIO, *, as_json: bool, quiet: bool) -> display.Console:
    """Return the form for where the output goes. Raises UsageError as ``display.heartbeat``."""
    if as_json:
        return display.JsonConsole(out, heartbeat=display.heartbeat())
    if out.isatty():
        from singbuild.console.live import LiveConsole  # a pipe needs no rich

        return LiveConsole(out, quiet=quiet)
    return display.Console(out, quiet=quiet, heartbeat=display.heartbeat())
