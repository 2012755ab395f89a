"""What a build prints, in its three forms."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from singbuild.console import choice, display, events, live
from singbuild.errors import HostError, SectionError, UsageError
from singbuild.images import pull
from tests.bench.terminal import Terminal


def tell(console: display.Console) -> None:
    with console:
        console.start("a.def", "a.img")
        console.phase("post", "%post at line 3")
        console.line("[bold]not markup[/bold]")
        console.progress("Unpacking", 3, 7)
        console.warn("careful")
        console.done("a.img", 1 << 20)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_for_the_output_ends_no_build(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        tell(choice.choose(full, as_json=as_json, quiet=False))
    text_of_error = capsys.readouterr().err
    printed = "warning: standard output cannot be written any further: No space left on device\n"
    assert text_of_error.count(printed) == 1


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    tell(choice.choose(out, as_json=False, quiet=False))
    assert "\x1b" not in out.getvalue()
    assert "    [bold]not markup[/bold]\n" in out.getvalue()
    assert "post: %post at line 3" in out.getvalue()
    assert capsys.readouterr().err == "singbuild: warning: careful\n"


class Pieces(io.StringIO):
    """Keeps what it is given, piece by piece: an interruption can come between two."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str, /) -> int:
        self.pieces.append(text)
        return len(text)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_is_written_at_once(*, as_json: bool) -> None:
    out = Pieces()
    tell(choice.choose(out, as_json=as_json, quiet=False))
    assert out.pieces
    assert all(piece.endswith("\n") and len(piece) > 1 for piece in out.pieces)


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    console = choice.choose(out, as_json=True, quiet=False)
    tell(console)
    console.error(HostError("what", why="why", remedy="remedy"), None)
    printed = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in printed] == [
        *("start", "phase", "line", "progress", "warning", "done", "error"),
    ]
    assert printed[0]["version"] == events.VERSION
    text_of_error = {"status": 5, "what": "what", "why": "why", "remedy": "remedy", "log": ""}
    assert text_of_error.items() <= printed[-1].items()


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    tell(choice.choose(out, as_json=False, quiet=True))
    assert out.getvalue() == ""
    assert "careful" in capsys.readouterr().err


def test_a_warning_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = choice.choose(io.StringIO(), as_json=False, quiet=False)
    for text in ("broken", "other", "broken"):
        console.warn(text)
    text_of_error = capsys.readouterr().err
    assert text_of_error == "singbuild: warning: broken\nsingbuild: warning: other\n"


def test_the_log_gets_everything() -> None:
    console = choice.choose(io.StringIO(), as_json=True, quiet=False)
    console.log = io.StringIO()
    tell(console)
    for text in ("building a.img from a.def", "== post", "not markup", "warning: careful"):
        assert text in console.log.getvalue()


def test_a_terminal_shows_the_phase_and_markup_as_text() -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as out:
        tell(choice.choose(out, as_json=False, quiet=False))
    text = ""
    with contextlib.suppress(OSError), os.fdopen(controller, "rb", buffering=0) as screen:
        while piece := screen.read(1 << 16):  # EIO at the end: pty(7)
            text += piece.decode(errors="replace")
    assert "[bold]not markup[/bold]" in text
    assert "post" in text
    assert "\x1b[?25h" in text  # the cursor is back


@pytest.mark.parametrize("as_json", [False, True])
def test_a_long_silence_is_broken(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_HEARTBEAT", "0.01")
    out = Watched("heartbeat" if as_json else "post: still at work")
    with choice.choose(out, as_json=as_json, quiet=False) as console:
        console.phase("post", "")
        assert out.arrival.wait(30)


class Watched(io.StringIO):
    """Where something is printed sooner or later. seen: whether it was."""

    def __init__(self, awaited: str) -> None:
        super().__init__()
        self.awaited, self.arrival = awaited, threading.Event()

    def write(self, text: str) -> int:
        if self.awaited in text:
            self.arrival.set()
        return super().write(text)


def test_an_empty_variable_sets_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_HEARTBEAT", "")
    assert display.heartbeat() == display.HEARTBEAT


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_heartbeat_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_HEARTBEAT", text)
    with pytest.raises(UsageError, match="SINGBUILD_HEARTBEAT"):
        choice.choose(io.StringIO(), as_json=True, quiet=False)


HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07\a\b\r\x9b1m\x00 tab\tend"


@pytest.mark.parametrize("as_json", [False, True])
def test_no_control_character_gets_through(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    console = choice.choose(out, as_json=as_json, quiet=False)
    console.log = io.StringIO()
    console.line(HOSTILE)
    console.warn(HOSTILE)
    console.error(HostError(HOSTILE), None)
    printed = out.getvalue()
    if as_json:
        printed = "".join(json.loads(line)["text"] for line in printed.splitlines())
    text_of_error = printed + capsys.readouterr().err + console.log.getvalue()
    assert text_of_error.count("red") == 6
    assert "title" not in text_of_error
    assert [each for each in text_of_error if not each.isprintable() and each not in "\n\t"] == []


@pytest.mark.parametrize(
    ("label", "done", "total", "seconds", "words"),
    [
        (
            "Fetching 88 packages",
            8 << 20,
            30 << 20,
            4.0,
            "Fetching 88 packages 8.0/30.0 MiB, 2.0 MiB/s, 11 s left",
        ),
        ("bytes", 1 << 20, 2 << 20, 0.1, "1.0/2.0 MiB"),
        ("layer", 3 << 20, 0, 0.1, "layer 3.0 MiB"),
        ("Unpacking", 3, 7, 9.0, "Unpacking 3/7"),
        ("Unpacking", 3, 0, 9.0, "Unpacking 3"),
    ],
)
def test_progress_has_units_and_rates(
    label: str, done: int, total: int, seconds: float, words: str
) -> None:
    assert live.counted(label, done, total, seconds) == words


def on_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """What a terminal of a width gets of a phase whose first part is complete, and that goes on."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as out:
        console = choice.choose(out, as_json=False, quiet=False)
        with console:
            console.phase("bootstrap", "Bootstrap: debootstrap fills it")
            console.progress("Fetching 88 packages", 31870120, 31870120)
            threading.Event().wait(1.5)  # the clock goes on
    data = b""
    with contextlib.suppress(OSError), os.fdopen(controller, "rb", buffering=0) as screen:
        while piece := screen.read(1 << 16):  # EIO at the end: pty(7)
            data += piece
    return data.decode()


@pytest.mark.parametrize("columns", [60, 120])
def test_a_phase_that_goes_on_never_looks_ended(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = on_a_terminal(columns, monkeypatch)
    assert "30.4/30.4 MiB" in text
    assert ("Fetching 88 packages" in text) == (columns == 120)
    assert "0:00:00" in text
    assert "0:00:01" in text  # a second after its part was complete


def test_colours_are_the_readers_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1m[" in on_a_terminal(120, monkeypatch)  # the phase, bold
    assert "\x1b[1;" not in on_a_terminal(120, monkeypatch, NO_COLOR="1").replace("\x1b[1A", "")


def test_a_long_phase_breaks_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    path = f"/{'directory/' * 6}a.img"

    def tell_it(console: display.Console) -> None:
        console.phase("resolve", WORDS)
        console.start("a.def", path)

    lines = plain_screen(tell_it)
    assert " ".join(line.strip() for line in lines[:3]).endswith(WORDS)
    assert any(path in line for line in lines)  # to be copied in one piece


def test_a_pull_shows_how_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")

    def tell_it(console: display.Console) -> None:
        with console:
            console.start("docker:lab/tool", "tool.img")
            console.phase("bootstrap", "Bootstrap: docker fills it")
            console.line("Downloading layer: sha256:01")
            console.line("of no interest")
            console.progress("bytes of layers", 15935060, 31870120)
            threading.Event().wait(0.5)
            console.done("tool.img", 1 << 20)

    def console(out: TextIO) -> display.Console:
        return pull.layers_console(out, "lab/tool:1")

    text = "\n".join(plain_screen(tell_it, console))
    assert "15.2/30.4 MiB" in text
    assert "of no interest" not in text
    pipe = io.StringIO()
    tell_it(console(pipe))
    assert pipe.getvalue() == "lab/tool:1\nDownloading layer: sha256:01\ntool.img: 1.0 MiB\n"


WORDS = "Bootstrap: debootstrap (singbuild 0.1.0) resolves the exact inputs"


def chosen(out: TextIO) -> display.Console:
    return choice.choose(out, as_json=False, quiet=False)


def plain_screen(
    tell_it: Callable[[display.Console], object],
    console: Callable[[TextIO], display.Console] = chosen,
) -> list[str]:
    """The lines that a terminal gets of what is told, without colours and movements."""
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as out:
        tell_it(console(out))
    data = b""
    with contextlib.suppress(OSError), os.fdopen(controller, "rb", buffering=0) as screen:
        while piece := screen.read(1 << 16):  # EIO at the end: pty(7)
            data += piece
    return re.sub(r"\x1b\[[\d;?]*\w", "", data.decode()).splitlines()


@pytest.mark.parametrize("colours", [True, False])
def test_an_error_stands_out_on_a_terminal(monkeypatch: pytest.MonkeyPatch, colours: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color" if colours else "dumb")
    monkeypatch.delenv("NO_COLOR", raising=False)
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as screen, os.fdopen(terminal, "w") as errors:
        monkeypatch.setattr("sys.stderr", errors)
        choice.choose(io.StringIO(), as_json=False, quiet=False).error(HostError("no room"), None)
        text = screen.read(1 << 16).decode()
    prefix = "singbuild: error: "
    assert text.startswith(f"\x1b[1;31m{prefix}\x1b[0mno room" if colours else f"{prefix}no room")


def test_an_error_repeats_no_line_that_stands_right_above_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(console: display.Console) -> None:
        monkeypatch.setattr("sys.stderr", console._out)
        console.after_section = "Look inside."
        with console:
            console.phase("post", "%post at line 3")
            for text in ("+ echo one", "one", "+ ls /nosuch", "ls: /nosuch: no such thing"):
                console.line(text)
        why = "     4 | ls /nosuch\none\n+ ls /nosuch\nls: /nosuch: no such thing"
        console.error(SectionError("a.def:4: %post failed", section="post", why=why), Path("a.log"))

    lines = [line.strip() for line in plain_screen(fail)]
    assert lines[-4:] == [
        "singbuild: error: a.def:4: %post failed",
        "4 | ls /nosuch",
        "The full log: a.log",
        "Look inside.",
    ]
    for text in ("one", "ls: /nosuch: no such thing"):
        assert lines.count(text) == 1


SUSPENDED = """
import sys, time
from pathlib import Path
from singbuild.console.live import LiveConsole
with LiveConsole(sys.stdout) as console:
    console.phase("post", "%post at line 3")
    with {lock}:
        while not Path({go_on!r}).exists():
            time.sleep(0.02)
print("went on")
"""


@pytest.mark.parametrize(
    "lock", ["open('/dev/null')", "console._terminal", "console._terminal._lock"]
)
def test_ctrl_z_gives_the_cursor_back(tmp_path: Path, lock: str) -> None:
    """Also to who types it while a line is printed: lock is what the interrupted thread has."""
    go_on = tmp_path / "go on"
    (tmp_path / "it.py").write_text(SUSPENDED.format(go_on=str(go_on), lock=lock))
    environment = {**os.environ, "TERM": "xterm", "PS1": "$ ", "HISTFILE": ""}
    argv = ["bash", "--norc", "-i"]
    terminal = Terminal(lambda: os.execvpe("bash", argv, environment))
    terminal.type(f"{sys.executable} {tmp_path}/it.py\n")
    terminal.expect(r"\x1b\[\?25l")
    terminal.expect("post")
    terminal.type("\x1a")
    assert "\x1b[?25h" in terminal.expect(r"(?s).*Stopped")
    terminal.type("fg\n")
    terminal.expect(r"\x1b\[\?25l")
    go_on.touch()
    assert "\x1b[?25h" in terminal.expect("(?s).*went on")
    terminal.type("exit\n")
    assert terminal.status() == 0


def test_what_we_say_ourselves_breaks_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")

    def tell_it(console: display.Console) -> None:
        console.phase("post", "")
        console.line("a program wrote this line of more than forty columns")
        console.phase("seal", "")
        console.line("normalised: /run (2): what a running system would write")
        console.warn("the cache entry 0123456789 is damaged; it is dropped and made again")

    lines = [line.rstrip() for line in plain_screen(tell_it)]
    assert "    normalised: /run (2): what a running" in lines
    assert "        system would write" in lines
    assert "warning: the cache entry 0123456789 is" in lines
    assert "    a program wrote this line of more than forty columns" in lines


def test_a_process_that_was_killed_amid_a_line_is_shown_up_to_there() -> None:
    """A pipe divides what is longer than 4 KiB: pipe(7)."""
    reading, writing = os.pipe()
    os.write(writing, b'["line", {"text": "whole"}]\n["line", {"text": "cut o')
    os.close(writing)
    out = io.StringIO()
    display.Console(out).repeat(reading)
    assert out.getvalue() == "    whole\n"
