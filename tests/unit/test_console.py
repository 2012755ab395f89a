"""What a build prints, in its three forms."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty

import pytest

from singbuild import console
from singbuild.errors import HostError


def tell(shown: console.Console) -> None:
    with shown:
        shown.start("a.def", "a.img")
        shown.phase("post", "%post at line 3")
        shown.line("[bold]not markup[/bold]")
        shown.progress("Unpacking", 3, 7)
        shown.warn("careful")
        shown.done("a.img", 1 << 20)


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    tell(console.choose(out, as_json=False, quiet=False))
    assert "\x1b" not in out.getvalue()
    assert "    [bold]not markup[/bold]\n" in out.getvalue()
    assert "post: %post at line 3" in out.getvalue()
    assert capsys.readouterr().err == "singbuild: warning: careful\n"


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    shown = console.choose(out, as_json=True, quiet=False)
    tell(shown)
    shown.error(HostError("what", why="why", remedy="remedy"), None)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        *("start", "phase", "line", "progress", "warning", "done", "error"),
    ]
    assert events[0]["version"] == console.EVENTS_VERSION
    told = {"status": 5, "what": "what", "why": "why", "remedy": "remedy", "log": ""}
    assert told.items() <= events[-1].items()


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    tell(console.choose(out, as_json=False, quiet=True))
    assert out.getvalue() == ""
    assert "careful" in capsys.readouterr().err


def test_the_log_gets_everything() -> None:
    shown = console.choose(io.StringIO(), as_json=True, quiet=False)
    shown.log = io.StringIO()
    tell(shown)
    for text in ("building a.img from a.def", "== post", "not markup", "warning: careful"):
        assert text in shown.log.getvalue()


def test_a_terminal_shows_the_phase_and_markup_as_text() -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as out:
        tell(console.choose(out, as_json=False, quiet=False))
    seen = ""
    with contextlib.suppress(OSError), os.fdopen(controller, "rb", buffering=0) as screen:
        while piece := screen.read(1 << 16):  # EIO at the end: pty(7)
            seen += piece.decode(errors="replace")
    assert "[bold]not markup[/bold]" in seen
    assert "post" in seen
    assert "\x1b[?25h" in seen  # the cursor is back
