"""A shell inside under a pseudo-terminal behaves as one outside."""

from __future__ import annotations

import os
import re
import shutil
import termios

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person
from tests.bench.terminal import Terminal

pytestmark = pytest.mark.root


def terminal_of(person: Person, *words: str) -> Terminal:
    """Singrun, called by a person at a terminal."""
    command = person.words(person.launcher, *words)
    variables = person.environment() | {"TERM": "dumb"}
    return Terminal(lambda: os.execvpe(command[0], command, variables))


@pytest.mark.parametrize("name", ["root, loop", "user"])
@pytest.mark.parametrize("options", [[], ["-p"], ["-c"], ["-C"]])
def test_prompt_interrupt_stop_resize_and_status(
    bench: Bench, name: str, options: list[str]
) -> None:
    terminal = terminal_of(bench.people[name], "shell", *options, str(bench.image))
    prompt = re.escape(f"Singularity.{bench.image.name}> ")
    terminal.expect(prompt)
    terminal.type("tty; echo to-$((6 * 7))\n")
    assert "not a tty" not in terminal.expect(r"(?s).*to-42\r\n")
    terminal.expect(prompt)
    terminal.type("sleep 60\n")
    terminal.expect("sleep 60\r\n")
    terminal.wait_for_foreground("sleep")
    terminal.type("\x03")
    terminal.expect(prompt)
    terminal.type("sleep 61\n")
    terminal.expect("sleep 61\r\n")
    terminal.wait_for_foreground("sleep")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("jobs; fg\n")
    terminal.expect("Stopped +sleep 61\r\nsleep 61\r\n")
    terminal.wait_for_foreground("sleep")
    terminal.type("\x03")
    terminal.expect(prompt)
    termios.tcsetwinsize(terminal.fd, (34, 102))
    terminal.type("stty size\n")
    terminal.expect("34 102\r\n")
    terminal.type("exit 23\n")
    assert terminal.status() == 23
    images.wait_for_daemons(str(bench.image))


def test_shells_in_a_row_keep_job_control(bench: Bench) -> None:
    shells_in_a_row(bench, 6)


def shells_in_a_row(bench: Bench, count: int) -> None:
    prompt = re.escape(f"Singularity.{bench.image.name}> ")
    people = [bench.people[name] for name in ("user", "user, unpack", "root, loop")]
    for round_ in range(count):
        person = people[round_ % 3]
        terminal = terminal_of(person, "shell", *person.options, str(bench.image))
        terminal.expect(prompt)
        terminal.type("sh -c 'echo up-$((1+1)); exec sleep 60'\n")
        terminal.expect("up-2")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("fg\n")
        terminal.expect("exec sleep 60.*\r\n")
        terminal.wait_for_foreground("sleep")
        terminal.type("\x03")
        terminal.expect(prompt)
        termios.tcsetwinsize(terminal.fd, (20 + round_, 90))
        terminal.type("stty size; exit $((round=5))\n")
        terminal.expect(f"{20 + round_} 90\r\n")
        assert terminal.status() == 5
    images.wait_for_daemons(str(bench.image))


def test_a_writing_shell_has_job_control_too(bench: Bench) -> None:
    person = bench.people["user"]
    image = bench.directory / "own.img"
    shutil.copy(bench.image, image)
    os.chown(image, person.uid, person.gid)
    terminal = terminal_of(person, "shell", "-w", str(image))
    prompt = re.escape("Singularity.own.img> ")
    terminal.expect(prompt)
    terminal.type("sleep 60\n")
    terminal.expect("sleep 60\r\n")
    terminal.wait_for_foreground("sleep")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    terminal.expect("sleep 60\r\n")
    terminal.wait_for_foreground("sleep")
    terminal.type("\x03")
    terminal.expect(prompt)
    terminal.type(": >/new; exit 6\n")
    assert terminal.status() == 6
    assert person.output("exec", image, "ls", "/new") == "/new\n"
    images.wait_for_daemons(str(image))


# Tries to type into the terminal, by ioctl(2) as a C library and as other programs call it.
TYPES = """
import ctypes, errno, os, sys, termios
libc, machine = ctypes.CDLL(None, use_errno=True), os.uname().machine
ioctl = {"x86_64": 16, "aarch64": 29, "riscv64": 29}.get(machine, 54)
for request in (termios.TIOCSTI, termios.TIOCSTI | 1 << 32, 0x541C, termios.TCGETS):
    done = libc.syscall(ctypes.c_long(ioctl), ctypes.c_long(0), ctypes.c_ulong(request), b"#" * 64)
    print(errno.errorcode[ctypes.get_errno()] if done < 0 else "done", flush=True)
    ctypes.set_errno(0)
"""


@pytest.mark.parametrize("name", ["root, loop", "user"])
def test_a_contained_program_has_terminals_of_its_own(bench: Bench, name: str) -> None:
    """Of the caller's it has the one that it was started on."""
    person = bench.people[name]
    # A loop: a key that is typed before a sleep begins does not end it.
    script = (
        "trap 'exit 7' INT; echo /dev/pts/* $(tty); exec 3<>/dev/ptmx; echo /dev/pts/*;"
        " echo typed >/dev/tty; while :; do sleep 0.1; done"
    )
    terminal = terminal_of(person, "exec", "-C", str(bench.image), "sh", "-c", script)
    terminal.expect("/dev/pts/ptmx /dev/console\r\n/dev/pts/0 /dev/pts/ptmx\r\ntyped\r\n")
    terminal.type("\x03")
    assert terminal.status() == 7
    others = "ls /dev/pts | grep -c ^[0-9]; test -e /dev/console || echo none"
    assert person.singrun("exec", "-C", bench.image, "sh", "-c", others).stdout == b"0\nnone\n"


@pytest.mark.parametrize("name", ["root, loop", "user"])
def test_a_contained_program_cannot_type_into_its_callers_terminal(bench: Bench, name: str) -> None:
    person = bench.people[name]
    binds = [f"-B{place}" for place in ("/usr", "/lib", "/lib64") if os.path.isdir(place)]
    python = [images.PYTHON, "-c", TYPES]
    apart = f"apart-{os.getpid()}"
    refused = "EPERM\r\nEPERM\r\nEPERM\r\ndone\r\n"
    terminal = terminal_of(person, "exec", "-C", *binds, str(bench.image), *python)
    terminal.expect(refused)
    assert terminal.status() == 0
    assert person.output("start", "-C", *binds, bench.image, apart) == ""
    terminal = terminal_of(person, "exec", f"instance://{apart}", *python)
    terminal.expect(refused)
    assert terminal.status() == 0
    assert person.call(person.launcher, "stop", apart).returncode == 0
