"""Writes how a build went as a JUnit report: what CI services show of tests.

A suite for the recipe; in it a case for the bootstrap and for each section or instruction that is
executed, and one for any other step that fails. It knows nothing of the build but its events.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from singbuild.console.events import Event
from singbuild.errors import SectionError, UsageError

# Phases that are cases; a stage's name and a slash may stand before one.
CASES = re.compile(
    r"(?P<stage>.*/)?(?:(?P<name>bootstrap)|(?:run|copy|add|onbuild)-\d+"
    r"|(?P<section>setup|files|post(?:-\d+)?|test))"
)
KEPT_LINES = 10_000  # of one case's output, the last ones
# What XML 1.0 can hold, section 2.2.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class Case:
    """One case. result: "", or the element that tells of it: failure, error, skipped."""

    name: str
    began: float = 0
    seconds: float = 0
    result: str = ""
    message: str = ""
    text: str = ""
    output: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))


class Report:
    """The report of a build of ``recipe``, to be called with each of its events.

    The file is there from the beginning, and says that the build did not end until it
    does. Raises UsageError when it cannot be written.
    """

    def __init__(self, path: Path, recipe: str) -> None:
        self._path, self._recipe = path.absolute(), recipe
        self._steps: list[str] = []
        self._cases: dict[str, Case] = {}
        self._now: Case | None = None
        unfinished = Case("build", result="error", message="the build did not end")
        try:
            self._write([unfinished])
        except OSError as error:
            raise UsageError(f"--junit {path}: {error.strerror}") from error

    def __call__(self, event: Event) -> None:
        """Take note of an event, and write the report when the build ends."""
        match event.name:
            case "start":
                self._steps, self._cases, self._now = [*event["steps"]], {}, None
            case "phase":
                self._end(event.seconds)
                self._note_step(event["name"])
                self._now = Case(event["name"], event.seconds)
                self._cases[self._now.name] = self._now
            case "line" | "warning" if self._now:
                self._now.output.append(event.logged)
            case "done" | "error":
                self._end(event.seconds)
                self._finish(event)

    def _note_step(self, name: str) -> None:
        """Put a step that no plan has, as a trigger of the base image, behind the last one."""
        if name not in self._steps:
            at = self._steps.index(self._now.name) + 1 if self._now else 0
            self._steps.insert(at, name)

    def _end(self, seconds: float) -> None:
        if self._now:
            self._now.seconds = seconds - self._now.began

    def _finish(self, event: Event) -> None:
        failed = event.name == "error"
        order = [*self._steps, "build"]
        if failed:
            last = self._now or self._cases.setdefault("build", Case("build"))
            last.result = "failure" if event["status"] == SectionError.status else "error"
            last.message, last.text = event["what"], event["text"]
        for name in {step for step in self._steps if CASES.fullmatch(step)}.difference(self._cases):
            reached = not failed or (name in order and order.index(name) < order.index(last.name))
            why = "unchanged: its outcome is taken from the cache" if reached else "not reached"
            self._cases[name] = Case(name, result="skipped", message=why)
        cases = [self._cases[name] for name in order if name in self._cases]
        try:
            self._write([case for case in cases if CASES.fullmatch(case.name) or case.result])
        except OSError as error:
            complaint = f"{self._path} cannot be written: {error.strerror}"
            print(f"singbuild: warning: {complaint}", file=sys.stderr)

    def _write(self, cases: list[Case]) -> None:
        counts = {
            f"{kind}s" if kind != "skipped" else kind: str(sum(c.result == kind for c in cases))
            for kind in ("failure", "error", "skipped")
        }
        total = f"{sum(case.seconds for case in cases):.3f}"
        facts = {"name": _possible(self._recipe), "tests": str(len(cases)), "time": total}
        suites = ElementTree.Element("testsuites")
        suite = ElementTree.SubElement(suites, "testsuite", facts | counts)
        for case in cases:
            self._add(suite, case)
        self._path.write_bytes(ElementTree.tostring(suites, "utf-8", xml_declaration=True))

    def _add(self, suite: ElementTree.Element, case: Case) -> None:
        place = _possible(Path(self._recipe).name.removesuffix(".def"))
        name, seconds = _name(case.name), f"{case.seconds:.3f}"
        facts = {"classname": place, "name": name, "time": seconds}
        element = ElementTree.SubElement(suite, "testcase", facts)
        if case.result:
            result = ElementTree.SubElement(element, case.result, message=_possible(case.message))
            result.text = _possible(case.text)
        if case.output:
            output = ElementTree.SubElement(element, "system-out")
            output.text = _possible("\n".join(case.output))


def _name(phase: str) -> str:
    """Return a case's name: a section's with a percent sign."""
    match = CASES.fullmatch(phase)
    section = f"%{match['section']}" if match and match["section"] else ""
    return f"{match['stage'] or ''}{section}" if match and section else phase


def _possible(text: str) -> str:
    """Return text that XML can hold: what it cannot is written as an escape."""
    return _IMPOSSIBLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
