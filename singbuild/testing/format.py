"""What every format is expected to do, with the real command."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import ClassVar

import pytest

from singbuild import command
from singbuild.errors import ImageError
from singbuild.ext3.writer.seal import seal
from singbuild.formats import loading
from singbuild.formats.loading import Kind
from singbuild.testing.engine import Engine

EPOCH = 1_700_000_000
_DAMAGES = 60


class FormatConformance:
    """What every format does, with the real command; subclass it and give the name.

    name: the word of ``--format``; holds_attributes: whether extended attributes are kept.
    """

    name: ClassVar[str]
    holds_attributes: ClassVar[bool] = True

    @pytest.fixture
    def kind(self) -> Kind:
        """The loaded format; the test is skipped where its programs are missing."""
        kind = loading.find(self.name)
        missing = [p.package for p in kind.format.programs if command.which(p.name) is None]
        if missing:
            pytest.skip(f"needs {' '.join(missing)}")
        return kind

    @pytest.fixture
    def image(self, singbuild_engine: Engine) -> Path:
        """A small ext3 image with something of everything that anybody can make."""
        tree = singbuild_engine.place / "tree"
        _fill(tree)
        if self.holds_attributes:
            os.setxattr(tree / "file", "user.note", b"value")
        return seal(tree, singbuild_engine.place / "a.source", epoch=EPOCH).path

    def convert(self, engine: Engine, source: Path, target: Path, form: str) -> None:
        """Convert with the real command."""
        done = engine.run("convert", "--force", "--format", form, source, target)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_it_says_what_it_is(self, kind: Kind) -> None:
        """Endings begin with a dot, programs have a package, one line explains it."""
        assert kind.format.help
        assert "\n" not in kind.format.help
        assert all(ending[0] == "." for ending in kind.format.endings)
        assert all(program.package for program in kind.format.programs)

    def test_it_is_listed(self, singbuild_engine: Engine, kind: Kind) -> None:
        """``singbuild formats`` knows it."""
        listing = singbuild_engine.run("formats").stdout
        assert any(line.startswith(f"{kind.name} ") for line in listing.splitlines())

    def test_it_knows_its_own_and_no_others(
        self, singbuild_engine: Engine, kind: Kind, image: Path
    ) -> None:
        """What it wrote is opened by it; a text file is not its own."""
        target = singbuild_engine.place / "made"
        self.convert(singbuild_engine, image, target, self.name)
        with loading.opened(target) as one, kind.open(target) as other:
            assert one.facts.kind == other.facts.kind
        (singbuild_engine.place / "text").write_text("#!/bin/sh\n")
        head = (singbuild_engine.place / "text").read_bytes()
        assert not kind.recognises(singbuild_engine.place / "text", head)

    def test_equal_trees_give_equal_bytes(
        self, singbuild_engine: Engine, kind: Kind, image: Path
    ) -> None:
        """Twice, with another umask and another name."""
        if kind.format.directory:
            pytest.skip("a directory has no bytes of its own")
        paths = [singbuild_engine.place / name for name in ("one", "other")]
        for target, umask in zip(paths, (0o022, 0o077), strict=True):
            before = os.umask(umask)
            try:
                self.convert(singbuild_engine, image, target, self.name)
            finally:
                os.umask(before)
        assert paths[0].read_bytes() == paths[1].read_bytes()

    def test_what_was_written_is_read(
        self, singbuild_engine: Engine, kind: Kind, image: Path
    ) -> None:
        """Names, owners, modes, times, links, holes and data; and back to an ext3."""
        target, back = (singbuild_engine.place / name for name in ("made", "back.ext3"))
        self.convert(singbuild_engine, image, target, kind.name)
        self.convert(singbuild_engine, target, back, "ext3")
        for other in (target, back):
            done = singbuild_engine.run("diff", "--times", image, other)
            assert (done.returncode, done.stdout) == (0, "no difference\n")

    def test_damage_is_refused_or_read(
        self, singbuild_engine: Engine, kind: Kind, image: Path
    ) -> None:
        """Whatever a file holds, nothing but an ImageError comes of it."""
        if kind.format.directory:
            pytest.skip("a directory has no bytes of its own")
        target = singbuild_engine.place / "made"
        self.convert(singbuild_engine, image, target, self.name)
        # The same damages each time, so that a failure can be looked at again.
        sound, chance = target.read_bytes(), random.Random(1)
        for _ in range(_DAMAGES):
            data = bytearray(sound)
            for _ in range(chance.choice((1, 3))):
                data[chance.randrange(chance.choice((512, len(data))))] = chance.randrange(256)
            target.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
            try:
                with kind.open(target) as tree:
                    for entry in tree.walk():
                        tree.attributes(entry)
                        # A damaged size may be anything; zeros of terabytes would be read for days.
                        if entry.inode.kind == "file" and entry.inode.size < 1 << 30:
                            assert sum(map(len, tree.stream(entry))) == entry.inode.size
            except ImageError:
                continue

    def test_a_failure_leaves_nothing(self, singbuild_engine: Engine, kind: Kind) -> None:
        """No target, and nothing beside it, when the source is damaged."""
        place = singbuild_engine.place / "failure"
        place.mkdir()
        (place / "source").write_bytes(b"#!/usr/bin/env singrun\n".ljust(4096, b"\0"))
        done = singbuild_engine.run(
            "convert", "--format", kind.name, place / "source", place / "target"
        )
        assert done.returncode == ImageError.status
        assert [path.name for path in place.iterdir()] == ["source"]


def _fill(tree: Path) -> None:
    (tree / "bin").mkdir(parents=True)
    (tree / "file").write_bytes(random.Random(2).randbytes(300_000))
    (tree / "bin/second").hardlink_to(tree / "file")
    (tree / "bin/link").symlink_to("../file")
    (tree / "empty").touch()
    (tree / "closed").write_text("x")
    (tree / "closed").chmod(0o640)
    (tree / "odd name \udcff").write_text("odd")
    with (tree / "holes").open("wb") as file:
        file.seek(200_000)
        file.write(b"end")
    os.mkfifo(tree / "fifo")
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, (1, EPOCH - 7), follow_symlinks=False)
    os.utime(tree, (1, EPOCH - 9))
