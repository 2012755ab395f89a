"""Pictures of the terminal: what singbuild prints, drawn from the bytes of a real pseudo-terminal.

    make pictures      writes docs/pictures/*.svg: of a build, a pull, a failure and a hub, on 60
                       and on 120 columns, without colours, and into a pipe

pyte is the terminal, rich draws what stands on it. A picture of a phase is taken
half a second after it has begun.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.bench import debian_archive, once
from tests.bench.docker_images import archive, directory, file, image
from tests.bench.docker_registry import genuine, push
from tests.bench.rpm_repository import served

# rich's own frame, without the font that it would have a browser fetch.
FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Consolas, monospace;
  line-height: {line_height}px }}
.{unique_id}-title {{ font: bold 18px sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
LINES = 30
COLOURS = {"brown": "yellow", "brightbrown": "bright_yellow", "default": "default"}


@dataclass(frozen=True)
class Shot:
    """A command, and the phases of it that get pictures: a name, and what stands on the screen."""

    name: str
    command: str
    phases: tuple[tuple[str, str], ...] = ()


BUILD = Shot(
    "build",
    "singbuild --no-cache --force hello.def hello.img",
    (("bootstrap", r"Unpacking"), ("post", r"\] post:"), ("seal", r"\] seal")),
)
HUB = Shot("hub", "singbuild hub build tools site", (("building", r"hello: building"),))
FAILURE = Shot("failure", "singbuild --no-cache --force broken.def broken.img")
HELLO = """\
Bootstrap: debootstrap
{header}
Include: netbase

%post
    grep https /etc/services
    sleep 2

%runscript
    grep "$1" /etc/services

%test
    test -s /etc/services
"""
BROKEN = """\
Bootstrap: busybox

%post
    mkdir -p /opt/tool
    cp /nowhere/tool /opt/tool
"""


HUB_RECIPES = {
    "Singularity.hello": "Bootstrap: busybox\n\n%post\n    sleep 2\n\n%runscript\n    echo hello\n",
    "Singularity.broken": BROKEN,
}


def style(char: pyte.screens.Char) -> Style:
    """Return how rich draws a character of pyte's."""

    def colour(name: str) -> str:
        if re.fullmatch("[0-9a-f]{6}", name):
            return f"#{name}"
        return COLOURS.get(name, re.sub("^bright", "bright_", name))

    return Style(
        color=colour(char.fg),
        bgcolor=colour(char.bg),
        bold=char.bold,
        italic=char.italics,
        underline=char.underscore,
        reverse=char.reverse,
    )


def draw(screen: pyte.Screen, title: str, target: Path) -> None:
    """Write what stands on a screen as SVG, without the empty lines below."""
    console = Console(width=screen.columns, record=True, file=io.StringIO())
    rows = [screen.buffer[number] for number in range(screen.lines)]
    used = max((n for n, row in enumerate(screen.display) if row.strip()), default=0) + 1
    for row in rows[:used]:
        text = Text(no_wrap=True)
        chars = [row[column] for column in range(screen.columns)]
        for look, run in groupby(chars, style):  # a run of one look is one element of the picture
            text.append("".join(char.data for char in run), look)
        text.rstrip()
        console.print(text, crop=True, overflow="crop")
    target.write_text(console.export_svg(title=title, code_format=FRAME, unique_id="t"))


def record(shot: Shot, place: Path, target: Path, columns: int, **variables: str) -> None:
    """Execute a command at a terminal, and draw its phases and its end."""
    screen = pyte.Screen(columns, LINES)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {shot.command}\r\n".encode())
    child, fd = pty.fork()
    if not child:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", LINES, columns, 0, 0))
        os.chdir(place)
        os.execvpe("sh", ["sh", "-c", shot.command], os.environ | variables)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", LINES, columns, 0, 0))
    waiting = dict(shot.phases)
    since: dict[str, float] = {}
    name = f"{shot.name}-{columns}"
    while True:
        try:
            if select.select([fd], [], [], 0.2)[0]:
                stream.feed(os.read(fd, 65536))
        except OSError:  # EIO: the program has ended
            break
        text = "\n".join(screen.display)
        for phase, pattern in [*waiting.items()]:
            if re.search(pattern, text):
                since.setdefault(phase, time.monotonic())
            if phase in since and time.monotonic() - since[phase] > 0.5:
                draw(screen, f"{columns} columns", target / f"{name}-{phase}.svg")
                del waiting[phase]
    os.waitpid(child, 0)
    os.close(fd)
    draw(screen, f"{columns} columns", target / f"{name}.svg")


def record_pipe(shot: Shot, place: Path, target: Path) -> None:
    """Execute a command whose output is no terminal."""
    screen = pyte.Screen(120, 2 * LINES)
    command = f"{shot.command} 2>&1 | cat"
    done = subprocess.run(["sh", "-c", command], cwd=place, stdout=subprocess.PIPE, check=False)
    pyte.ByteStream(screen).feed(f"$ {command}\n".encode().replace(b"\n", b"\r\n"))
    pyte.ByteStream(screen).feed(done.stdout.replace(b"\n", b"\r\n"))
    draw(screen, "a pipe", target / f"{shot.name}-pipe.svg")


def repository(place: Path) -> None:
    """Make a Git repository of two recipes, one of which fails, unless it is there."""
    place.mkdir(exist_ok=True)
    for name, text in HUB_RECIPES.items():
        (place / name).write_text(text)
    person = ["-c", "user.name=Ada", "-c", "user.email=ada@lab.example"]
    for words in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "--allow-empty", "-m1"]):
        subprocess.run(["git", "-C", place, *words], check=True)


def main() -> None:
    """Draw all pictures."""
    target = Path(sys.argv[1]).absolute()
    target.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["TERM"] = "xterm-256color"
    with (
        once.directory_of_the_run(),
        tempfile.TemporaryDirectory(prefix="pictures-", dir="/var/tmp") as name,
        served(debian_archive.archive().place) as url,
    ):
        place = Path(name)
        os.environ["XDG_STATE_HOME"] = name  # of logs, which the last line of a failure names
        header = debian_archive.archive().header(url)
        (place / "hello.def").write_text(HELLO.format(header=header))
        (place / "broken.def").write_text(BROKEN)
        for columns in (60, 120):
            record(BUILD, place, target, columns)
            record(FAILURE, place, target, columns)
            repository(place / "tools")
            record(HUB, place, target, columns)
            shutil.rmtree(place / "site")
        record(Shot("colourless", FAILURE.command), place, target, 120, NO_COLOR="1")
        record_pipe(FAILURE, place, target)
        data = [file(f"opt/{n}", os.urandom(12 << 20)) for n in range(4)]
        with genuine(place) as server:
            layers = archive(directory("opt"), *data[:2]), archive(*data[2:])
            push(image(*layers, packing=""), server, "lab/tool", "1")
            command = f"singbuild pull --force docker://{server}/lab/tool:1 tool.img"
            for columns in (60, 120):
                shot = Shot("pull", command, (("layers", r"Downloading"),))
                record(shot, place, target, columns, SINGBUILD_CACHEDIR=f"{name}/cache{columns}")


if __name__ == "__main__":
    main()
