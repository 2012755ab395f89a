"""The door to host programs, with real programs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild import command
from singbuild.errors import HostError, ImageError
from tests.bench.host import PATIENCE, wait_until


def test_lines_of_both_streams_arrive_in_order() -> None:
    lines: list[str] = []
    done = command.call(["sh", "-c", "echo a; echo b >&2; printf c"], on_line=lines.append)
    assert (lines, done.status, done.tail) == (["a", "b", "c"], 0, ("a", "b", "c"))


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for() -> None:
    began = time.monotonic()
    pid: list[str] = []
    command.call(["sh", "-c", f"sleep {30 * PATIENCE} & echo $!"], on_line=pid.append)
    os.kill(int(pid[0]), 9)
    assert time.monotonic() - began < 20 * PATIENCE


def test_standard_input_is_empty() -> None:
    assert command.call(["cat"]).tail == ()


def test_a_signal_is_told_as_the_shell_tells_it() -> None:
    assert command.call(["sh", "-c", "kill -9 $$"]).status == 137


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(HostError) as caught:
        command.run(["no-such-program-here"], package="no-such-package")
    assert "apt-get install no-such-package" in str(caught.value)


def test_a_failure_tells_the_last_lines_and_the_command_to_paste() -> None:
    with pytest.raises(HostError) as caught:
        command.run(["sh", "-c", "echo reason; exit 3"])
    assert "status 3" in caught.value.what
    assert "reason" in caught.value.why
    assert caught.value.remedy.endswith("sh -c 'echo reason; exit 3'")


def test_the_environment_is_explicit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    lines: list[str] = []
    command.call(["env"], on_line=lines.append)
    assert "LC_ALL=C.UTF-8" in lines
    assert "https_proxy=http://127.0.0.1:1" in lines
    assert not [line for line in lines if line.startswith("SECRET=")]


def test_system_directories_are_searched_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command.environment()["PATH"] == "/usr/bin:/usr/sbin:/sbin"


def test_bytes_that_are_no_text_and_progress_bars_are_shown_as_far_as_can_be() -> None:
    done = command.call(["printf", r"10%%\r50%%\r100%%\n\377\n"])
    assert done.tail == ("100%", "�")


def test_a_file_that_cannot_be_executed(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no program")
    with pytest.raises(HostError):
        command.run([str(program)])


def test_a_program_that_is_asked_for_its_version_makes_nothing_at_home(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text(
        '#!/bin/sh\nmkdir "$HOME/.db" 2>/dev/null && echo made || echo "error: no database" >&2\n'
        "echo tool 1.2\n"
    )
    program.chmod(0o755)
    assert command.version(str(program)) == "tool 1.2"


def test_a_program_is_fed_and_what_it_says_is_kept_for_the_error(tmp_path: Path) -> None:
    target = tmp_path / "fed"
    command.feed(["sh", "-c", f"cat > {target}"], [b"one ", b"two" * 100_000])
    assert target.stat().st_size == 4 + 300_000
    with pytest.raises(HostError, match="failed with status 3") as caught:
        command.feed(["sh", "-c", "echo nothing taken >&2; exit 3"], iter([b"x" * 65536] * 99))
    assert "nothing taken" in caught.value.why
    with pytest.raises(HostError, match="not on this host") as caught:
        command.feed(["no-such-program"], [], package="its-package")
    assert "its-package" in caught.value.remedy


@pytest.mark.parametrize("input_first", ["exec <&-", ":"], ids=["closed", "open"])
def test_what_feeds_a_program_ends_it_when_it_fails(tmp_path: Path, input_first: str) -> None:
    pid = tmp_path / "pid"

    def pieces() -> Iterator[bytes]:
        yield b"x"
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        raise ImageError("the source is damaged")

    with pytest.raises(ImageError, match="damaged"):
        command.feed(["sh", "-c", f"{input_first}; echo $$ > {pid}; exec sleep 600"], pieces())
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
