"""What happens in a build, as values: docs/ci.md lists every event and its fields.

Each form in which a build is shown, its log and its JUnit report are made of these. Nothing
here knows where they go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1
"""Of the events that ``--json`` prints. Events and fields may be added within a version."""

# ECMA-48: control sequences, and operating system commands such as window titles.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Event:
    """One event. seconds: since the start; fields: by name, plain JSON values."""

    name: str
    seconds: float
    fields: Mapping[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]

    @property
    def logged(self) -> str:
        """The line in the log; "" for what is not worth one."""
        match self.name:
            case "start":
                return f"building {self['image']} from {self['recipe']}"
            case "phase":
                return f"== {self['name']}: {self['reason']}"
            case "line":
                return str(self["text"])
            case "cache":
                inputs = f", unchanged: {', '.join(self['unchanged'])}" if self["unchanged"] else ""
                return f"cache: {self['stage']}: {self['why']}{inputs}"
            case "difference":
                details = (f"{d['what']}: {d['first']} and {d['second']}" for d in self["details"])
                joined = "; ".join(details)
                return f"{self['kind']}: {self['path']}" + f" ({joined})" * bool(joined)
            case "reproducible":
                verdict = "is reproducible: both builds gave the same bytes"
                if not self["same"]:
                    verdict = "is not reproducible"
                other = (f"  {name}: {how}" for name, how in self["surroundings"].items())
                return "\n".join([f"the image {verdict}; the second had another", *other])
            case "warning" | "error":
                return f"{self.name}: {self['text']}"
            case "progress" if self["total"] and self["done"] == self["total"]:
                return f"{self['label']}: {self['total']}"
        return ""


def printable(text: str) -> str:
    """Return text without what moves a cursor, colours, or rings: a log is read as it is."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text))
