"""A pytest plugin for authors of backends and formats; it is there wherever singbuild is installed.

    fixture              gives
    singbuild_engine     ``Engine``: writes recipes, runs the real command, looks for left-overs
    singbuild_rootfs     a real ``Rootfs`` on an empty directory
    singbuild_recorded   ``RecordedRootfs``: the same, but commands are written down, not executed

``FormatConformance`` is what every format is expected to do; ``BackendConformance`` what every
backend is; subclass it::

    class TestConformance(BackendConformance):
        name = "mine"
        bad = ("Size: -1",)

        @pytest.fixture
        def header(self, singbuild_engine: Engine) -> str:
            return "Source: /somewhere"
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from singbuild import command
from singbuild.backends import loading
from singbuild.contract import Needs
from singbuild.errors import HostError
from singbuild.plan import preflight
from singbuild.privilege import modes
from singbuild.testing.engine import Ended, Engine, RecordedRootfs, Recorder, engine_of, source
from singbuild.testing.format import FormatConformance
from singbuild.tree.rootfs import Rootfs

__all__ = [
    "BackendConformance",
    "Ended",
    "Engine",
    "FormatConformance",
    "RecordedRootfs",
    "Recorder",
    "engine_of",
    "singbuild_engine",
    "singbuild_recorded",
    "singbuild_rootfs",
    "source",
]

NOBODY = 65534


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
        return loading.load(self.name).needs

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
        about = loading.find(self.name)
        listed = json.loads(singbuild_engine.run("backends", "--json").stdout)["backends"]
        facts = {"name": self.name, "distribution": about.distribution, "version": about.version}
        assert any(facts.items() <= each.items() for each in listed)
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
        events = [e for e in done.during("resolve", "bootstrap") if e["event"] != "phase"]
        assert events, "the backend works in silence"
        steps = [e for e in events if e["event"] == "progress"]
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
            if needs.root and "needs root" in done.error:
                assert (done.status, engine.left()) == (5, [])
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
    try:
        choice = modes.choose()
    except HostError as error:
        pytest.skip(f"no build works here: {error.what}")
    if preflight.lack_owners(needs, choice):
        pytest.skip("needs root, or subordinate ids")
