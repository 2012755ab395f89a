"""The real command and the trees that ``singbuild.testing`` tests backends with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from singbuild import command
from singbuild.contract import Source
from singbuild.tree.rootfs import Rootfs

Event = Mapping[str, Any]


class Recorder:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def line(self, text: str) -> None:
        """Remember a line."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Remember a warning."""
        self.warnings.append(text)

    def progress(self, label: str, done: int, total: int) -> None:
        """Remember a step of progress."""
        self.steps.append((label, done, total))


class RecordedRootfs(Rootfs):
    """A Rootfs on a real directory that records commands instead of executing them.

    commands: what was asked for, in order; answers: the lines that a program prints, by
    its name. ``report`` is a ``Recorder``.
    """

    def __init__(self, root: Path, answers: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(root, Recorder())
        self.commands: list[tuple[str, ...]] = []
        self.answers = dict(answers or {})

    def host(
        self,
        argv: Sequence[command.Word],
        *,
        env: Mapping[str, str] | None = None,  # noqa: ARG002 - as Rootfs has it
        on_line: Callable[[str], None] | None = None,
        **_options: Any,
    ) -> command.Completed:
        """Write a command of the host down."""
        return self._answered(tuple(map(str, argv)), on_line)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,  # noqa: ARG002 - as Rootfs has it
        on_line: Callable[[str], None] | None = None,
    ) -> command.Completed:
        """Write a command of the image down."""
        return self._answered(tuple(argv), on_line)

    def _answered(
        self, argv: tuple[str, ...], on_line: Callable[[str], None] | None
    ) -> command.Completed:
        self.commands.append(argv)
        lines = self.answers.get(Path(argv[0]).name, ())
        for line in lines:
            (on_line or self.report.line)(line)
        return command.Completed(argv, 0, tuple(lines))


def source(cache: Path, *, arch: str = "", **keywords: str) -> Source:
    """Return a Source as the engine makes it; its report is a ``Recorder``."""
    return Source(keywords, arch or os.uname().machine, cache, Recorder())


@dataclass(frozen=True)
class Ended:
    """How a build ended. status: the exit status; events: as ``--json`` prints them."""

    status: int
    events: tuple[Event, ...]
    stderr: str

    @property
    def error(self) -> str:
        """What was said to be wrong, with why and what to do; "" when nothing was."""
        last = next((e for e in self.events if e["event"] == "error"), None)
        return "\n".join(last[k] for k in ("what", "why", "remedy")) if last else self.stderr

    def during(self, *phases: str) -> list[Event]:
        """Return the events of some phases."""
        now, rows = "", []
        for event in self.events:
            now = event["name"] if event["event"] == "phase" else now
            rows += [event] if now in phases else []
        return rows


@dataclass(frozen=True)
class Engine:
    """The real ``singbuild`` command, with directories of its own.

    place: anybody can read it; recipes, images, cache, scratch and logs are there. env: variables
    besides the caller's. The site's extensions are not called.
    """

    place: Path
    user: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def recipe(self, text: str, name: str = "recipe.def") -> Path:
        """Write a recipe and return its path."""
        path = self.place / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``singbuild`` with these words in ``place``."""
        with self.start(*words) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def build(self, recipe: Path, *options: str, image: str = "a.img") -> Ended:
        """Build ``place/image`` from a recipe and return how it ended."""
        done = self.run("build", "--json", "--no-cache", *options, recipe, image)
        return Ended(done.returncode, _events(done.stdout.splitlines()), done.stderr)

    def interrupted(self, recipe: Path, phase: str, number: signal.Signals) -> Ended:
        """Build, send the command a signal when a phase begins, return how it ended."""
        words = ("build", "--json", "--no-cache", recipe, "a.img")
        with self.start(*words) as process:
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(line)
                if f'"name": "{phase}"' in line:
                    process.send_signal(number)
            _, err = process.communicate()
        return Ended(process.returncode, _events(lines), err)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start ``singbuild``; the caller waits for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "singbuild", *map(str, words)],
            cwd=self.place,
            env={
                **os.environ,
                "SINGBUILD_EXTENSIONS": "no",
                **self.env,
                **_directories(self.place),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user,
            group=self.user,
            # Not always []: that calls setgroups(2), which fails with EPERM for an ordinary user.
            extra_groups=None if self.user is None else [],
        )

    def lock(self, recipe: Path) -> dict[str, Any]:
        """Resolve a recipe and return its lock."""
        done = self.run("lock", recipe, "-o", "made.lock.yaml")
        assert done.returncode == 0, done.stderr
        lock: dict[str, Any] = yaml.safe_load((self.place / "made.lock.yaml").read_text())
        return lock

    def left(self) -> list[str]:
        """Return what a failed build left behind: target, part, scratch, mounts, loop devices.

        The kernel takes namespaces down a moment after their last process: they get five seconds.
        """
        end = time.monotonic() + 5
        while (names := self._left()) and time.monotonic() < end:
            time.sleep(0.1)
        return names

    def _left(self) -> list[str]:
        names = [p.name for p in self.place.iterdir() if ".img" in p.name]
        names += [p.name for p in (self.place / "scratch").iterdir()]
        loops = Path("/sys/block").glob("loop*/loop/backing_file")
        kernel = [Path("/proc/self/mounts"), *loops]
        return names + [line for p in kernel for line in _lines(p) if str(self.place) in line]


def _directories(place: Path) -> dict[str, str]:
    return {
        "SINGBUILD_CACHEDIR": str(place / "cache"),
        "SINGBUILD_TMPDIR": str(place / "scratch"),
        "XDG_STATE_HOME": str(place / "state"),
    }


def _events(lines: Sequence[str]) -> tuple[Event, ...]:
    return tuple(json.loads(line) for line in lines if line.startswith("{"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # a loop device that has just been detached
        return []


@contextlib.contextmanager
def engine_of(user: int | None = None) -> Iterator[Engine]:
    """Give the real command to a user (by number), in a directory that goes afterwards."""
    place = Path(tempfile.mkdtemp(prefix="singbuild-testing-"))
    try:
        # mkdtemp() makes it for its maker alone, and the user of the test may be another.
        place.chmod(0o755)
        for path in (place / "cache", place / "scratch", place / "state", place):
            path.mkdir(exist_ok=True)
            if user is not None:
                os.chown(path, user, user)
        yield Engine(place, user)
    finally:
        shutil.rmtree(place)
