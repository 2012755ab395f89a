"""A pytest plugin for authors of backends; it is there wherever singbuild is installed.

    fixture              gives
    singbuild_engine     ``Engine``: writes recipes, runs the real command, looks for left-overs
    singbuild_rootfs     a real ``Rootfs`` on an empty directory
    singbuild_recorded   ``RecordedRootfs``: the same, but commands are written down, not executed

``BackendConformance`` is what every backend is expected to do; subclass it::

    class TestConformance(BackendConformance):
        name = "mine"
        bad = ("Size: -1",)

        @pytest.fixture
        def header(self, singbuild_engine: Engine) -> str:
            return "Source: /somewhere"
"""

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
from typing import Any, ClassVar

import pytest
import yaml

from singbuild import backends, command
from singbuild.contract import Needs, Source
from singbuild.namespace import refusal
from singbuild.rootfs import Rootfs

NOBODY = 65534
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
    """A Rootfs on a real directory whose commands are written down and not executed.

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
        now, found = "", []
        for event in self.events:
            now = event["name"] if event["event"] == "phase" else now
            found += [event] if now in phases else []
        return found


@dataclass(frozen=True)
class Engine:
    """The real ``singbuild`` command, with directories of its own.

    place: anybody can read it; recipes, images, cache, scratch and logs are there.
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
            env={**os.environ, **self.env, **_directories(self.place)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user,
            group=self.user,
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
        while (found := self._left()) and time.monotonic() < end:
            time.sleep(0.1)
        return found

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
        place.chmod(0o755)
        for path in (place / "cache", place / "scratch", place / "state", place):
            path.mkdir(exist_ok=True)
            if user is not None:
                os.chown(path, user, user)
        yield Engine(place, user)
    finally:
        shutil.rmtree(place)


@pytest.fixture
def singbuild_engine() -> Iterator[Engine]:
    """The real command, in a directory of its own."""
    with engine_of() as engine:
        yield engine


@pytest.fixture
def singbuild_rootfs(tmp_path: Path) -> Rootfs:
    """A real Rootfs on an empty directory; ``run`` in it needs root and a mount namespace."""
    (tmp_path / "rootfs").mkdir()
    return Rootfs(tmp_path / "rootfs", Recorder())


@pytest.fixture
def singbuild_recorded(tmp_path: Path) -> RecordedRootfs:
    """A Rootfs that writes commands down; give it ``answers``."""
    (tmp_path / "recorded").mkdir()
    return RecordedRootfs(tmp_path / "recorded")


class BackendConformance:
    """What every backend does, with the real engine; subclass it and give name and header.

    name: the recipe's ``Bootstrap:`` word; header: header lines of a recipe that builds, by
    a fixture where they depend on one; bad: header lines that must be refused, each alone
    in place of the header's line with the same key, or added to it.
    """

    name: ClassVar[str]
    bad: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def header(self) -> str:
        """Header lines of a recipe that builds, without ``Bootstrap:``."""
        return ""

    @pytest.fixture
    def needs(self) -> Needs:
        """What the backend says it needs."""
        return backends.load(self.name).needs

    @pytest.fixture
    def engine(self, singbuild_engine: Engine, needs: Needs) -> Engine:
        """The real command; the test is skipped where this host cannot build."""
        _skip_unless_able(needs)
        return singbuild_engine

    def recipe(self, engine: Engine, header: str, sections: str = "") -> Path:
        """Write a recipe for this backend."""
        return engine.recipe(f"Bootstrap: {self.name}\n{header}\n{sections}")

    def test_it_says_what_it_needs(self, needs: Needs) -> None:
        """Keywords are told apart in any case and explained; programs have a package."""
        names = [keyword.name.lower() for keyword in needs.keywords]
        assert len(set(names)) == len(names)
        assert "bootstrap" not in names
        assert all(keyword.help for keyword in needs.keywords)
        assert all(program.package for program in needs.programs)

    def test_it_is_listed_and_described(self, singbuild_engine: Engine, needs: Needs) -> None:
        """``singbuild backends`` knows it, with its distribution and version."""
        about = backends.find(self.name)
        listed = singbuild_engine.run("backends").stdout.splitlines()
        assert [self.name, about.distribution, about.version] in [line.split() for line in listed]
        described = singbuild_engine.run("backends", self.name).stdout
        assert all(keyword.name in described for keyword in needs.keywords)

    def test_an_unknown_keyword_is_refused(self, singbuild_engine: Engine, header: str) -> None:
        """A typing error in a recipe is found before anything is made."""
        done = singbuild_engine.build(
            self.recipe(singbuild_engine, header + "\nNoSuchKeyword: 1"),
        )
        assert (done.status, singbuild_engine.left()) == (3, [])
        assert "NoSuchKeyword" in done.error

    def test_a_required_keyword_is_asked_for(
        self, singbuild_engine: Engine, header: str, needs: Needs
    ) -> None:
        """A recipe without it is told which."""
        for keyword in needs.keywords:
            if keyword.required:
                recipe = self.recipe(singbuild_engine, _without(header, keyword.name))
                done = singbuild_engine.build(recipe)
                assert (done.status, singbuild_engine.left()) == (3, [])
                assert keyword.name in done.error

    def test_a_bad_value_is_refused(self, engine: Engine, header: str) -> None:
        """In words, with the status of a recipe or a source, and nothing is left."""
        for line in self.bad:
            key = line.partition(":")[0]
            done = engine.build(self.recipe(engine, f"{_without(header, key)}\n{line}"))
            assert done.status in (3, 6), f"{line}: {done.error}"
            assert done.error
            assert engine.left() == [], line

    def test_it_resolves_to_a_stable_lock(self, engine: Engine, header: str) -> None:
        """The same inputs give the same pins, with a warm cache and with an empty one."""
        recipe = self.recipe(engine, header)
        first = engine.lock(recipe)
        assert first["pins"], "the pins name no input"
        assert engine.lock(recipe) == first
        shutil.rmtree(engine.place / "cache")
        assert engine.lock(recipe) == first

    def test_it_fills_twice_alike(self, engine: Engine, header: str) -> None:
        """Two builds give one file, bit for bit; the second is not taken from the cache."""
        done = engine.build(self.recipe(engine, header), "--check-reproducible")
        assert done.status == 0, done.error + done.stderr
        assert (engine.place / "a.img").stat().st_size

    def test_it_keeps_to_its_lock(self, engine: Engine, header: str) -> None:
        """A build from a lock takes what the lock says."""
        recipe = self.recipe(engine, header)
        assert engine.run("lock", recipe).returncode == 0
        done = engine.build(recipe, "--locked")
        assert done.status == 0, done.error

    def test_it_says_what_it_does(self, engine: Engine, header: str) -> None:
        """Lines or progress while it works; progress never runs past its end."""
        done = engine.build(self.recipe(engine, header))
        assert done.status == 0, done.error
        said = [e for e in done.during("resolve", "bootstrap") if e["event"] != "phase"]
        assert said, "the backend works in silence"
        steps = [e for e in said if e["event"] == "progress"]
        assert all(0 <= e["done"] <= (e["total"] or e["done"]) for e in steps)

    def test_a_failure_behind_it_leaves_nothing(self, engine: Engine, header: str) -> None:
        """The tree goes when %post fails, whatever the backend mounted or started."""
        done = engine.build(self.recipe(engine, header, "%post\n    exit 3\n"))
        assert (done.status, engine.left()) == (7, [])

    @pytest.mark.parametrize("phase", ["resolve", "bootstrap"])
    def test_it_can_be_interrupted(self, engine: Engine, header: str, phase: str) -> None:
        """Ctrl-C ends it, and nothing is left."""
        # What runs after it is slow, so that a quick backend is interrupted too.
        recipe = self.recipe(engine, header, "%post\n    sleep 20\n")
        done = engine.interrupted(recipe, phase, signal.SIGINT)
        assert (done.status, engine.left()) == (130, []), done.error

    def test_it_builds_without_root_or_says_that_it_cannot(self, header: str, needs: Needs) -> None:
        """As declared: ``Needs.root``."""
        with engine_of(None if os.geteuid() else NOBODY) as engine:
            _skip_unless_reachable(engine)
            done = engine.build(self.recipe(engine, header))
            if needs.root:
                assert (done.status, engine.left()) == (5, [])
                assert "needs root" in done.error
            elif "user namespace" not in done.error:
                assert done.status == 0, done.error


def _without(header: str, key: str) -> str:
    """Return header lines but those of a key."""
    lines = header.splitlines()
    return "\n".join(x for x in lines if x.partition(":")[0].strip().lower() != key.lower())


def _skip_unless_reachable(engine: Engine) -> None:
    """Skip where Python, as of a virtual environment in a home, is closed to other users."""
    try:
        engine.run("--version")
    except PermissionError as error:
        pytest.skip(f"an ordinary user cannot execute {error.filename}")


def _skip_unless_able(needs: Needs) -> None:
    missing = [p.package for p in needs.programs if command.which(p.name) is None]
    if missing:
        pytest.skip(f"needs {' '.join(missing)}")
    if os.geteuid() and (needs.root or refusal()):
        pytest.skip("needs root" if needs.root else "needs a user namespace")
