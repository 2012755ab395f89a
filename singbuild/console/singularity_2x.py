"""What a bootstrap in place prints: the lines that Singularity 2.x printed."""

from __future__ import annotations

from typing import TextIO

from singbuild.console.display import Console
from singbuild.console.events import Event


class Console2x(Console):
    """Plain lines, without times. backend: the recipe's ``Bootstrap:`` word."""

    def __init__(self, out: TextIO, backend: str, *, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet)
        self._backend = backend

    def _plain(self, event: Event) -> str:
        match event.name:
            case "start":
                return "Bootstrap initialization\nChecking bootstrap definition"
            case "phase" if event["name"] == "resolve":
                return "Executing Prebootstrap module"
            case "phase" if event["name"] == "bootstrap":
                return f"Executing Bootstrap '{self._backend}' module"
            # How the build is privileged, and what was normalised, 2.x did not say.
            case "line" | "cache" if self._phase not in ("", "seal"):
                return event.logged
            case "done":
                return "Done."
        return ""
