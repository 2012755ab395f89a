"""How builds and errors are told: on standard error, as Singularity 3.x and Apptainer do."""

from __future__ import annotations

import sys

from singbuild.console.display import Console
from singbuild.console.events import Event

FATAL, WARNING, INFO = "FATAL:   ", "WARNING: ", "INFO:    "
FAILED = 255
"""The exit status of whatever went wrong, but for a wrong command line."""


class InfoConsole(Console):
    """Plain lines on standard error: clients parse standard output."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(sys.stderr, quiet=quiet)

    def _plain(self, event: Event) -> str:
        match event.name:
            case "start":
                return f"{INFO}Starting build..."
            case "phase":
                return f"{INFO}{event['name']}: {event['reason']}"
            case "line" | "cache":
                return event.logged
            case "done":
                return f"{INFO}Build complete: {event['image']}"
        return ""
