"""Random layers, sound and damaged, unpacked beside directories that must not change."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from singbuild.tar.extract import Unpacker
from singbuild.tar.limits import Limits
from singbuild.testing.engine import Recorder
from tests.bench import campaign
from tests.bench.tar_bytes import (
    END,
    base_256,
    directory,
    header,
    link,
    member,
    pax,
    record,
    sparse,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
LIMITS = Limits(entries=2000, size=1 << 20)
SOUND = (
    b"a",
    b"b",
    b"a/b",
    b"a/b/c",
    b"l",
    b"l/x",
    b"./a",
    b".wh.a",
    b"a/.wh.b",
    b"a/.wh..wh..opq",
)
NAMES = (
    *(b"l/../x", b"/a", b"..", b"../v/f", b"a/..", b".", b"", b"a//b", b"\xff", b"a" * 300),
    *(b".wh..", b".wh..wh..opq", b"l/.wh.f", b"l/.wh..wh..opq", b".wh..wh.plnk", b"a\0b"),
    *SOUND,
)
XATTRS = (b"user.a", b"trusted.x", b"security.capability", b"user.\0", b"", b"\xff", b"user." * 60)


class Watched:
    """A root to unpack into, and victims beside it that links lead to."""

    def __init__(self, base: Path) -> None:
        self.root, self.victim = base / "root", base / "v"
        (self.victim / "d").mkdir(parents=True)
        for name in ("f", "x", "d/f"):
            (self.victim / name).write_text("of the host")
        self.before = self.seen()
        within = (b"a", b"b", b"..", b"/", b"/a", b"l", b"l/a", b"a/../l", b"q/../l", b"." * 200)
        outside = (b"../v", b"../v/f", b"../../v", b"/proc/self/root", b"/proc/self/cwd")
        absolute = (os.fsencode(self.victim / name) for name in (".", "f", "d"))
        self.targets = (*within, *outside, *absolute)

    def seen(self) -> dict[str, tuple[object, ...]]:
        result: dict[str, tuple[object, ...]] = {}
        for place in (self.victim, *sorted(self.victim.rglob("*"))):
            status = place.lstat()
            data = place.read_bytes() if place.is_file() else b""
            remaining = (
                status.st_mode,
                status.st_uid,
                status.st_nlink,
                status.st_ino,
                status.st_mtime_ns,
            )
            result[str(place)] = (*remaining, data)
        return result

    def unpack(self, layers: list[bytes]) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        report = Recorder()
        descriptors = len(os.listdir("/proc/self/fd"))
        try:
            with Unpacker(self.root, report, limits=LIMITS, whiteouts=True) as unpacker:
                for layer in layers:
                    unpacker.apply([layer])
        finally:
            assert self.seen() == self.before
            assert len(os.listdir("/proc/self/fd")) == descriptors
            assert sorted(os.listdir(self.root.parent)) == ["root", "v"]


def entry(chance: random.Random, targets: tuple[bytes, ...]) -> bytes:
    """One member of any kind, a sound one more often than not."""
    name = chance.choice(NAMES if not chance.randrange(8) else SOUND)
    target = chance.choice(targets)
    fields = {"mode": b"%07o\0" % chance.choice((0o644, 0o755, 0o4755, 0, 0o1777))}
    if not chance.randrange(20):
        field = chance.choice(
            ("uid", "gid", "mtime", "size", "major", "real_size", "kind", "magic")
        )
        value = chance.choice((-5, 0, 1 << 33, 1 << 40, 1 << 80))
        length = 12 if field in ("size", "mtime", "real_size") else 8
        fields[field] = chance.choice((base_256(value, length), b"-1\0", b"x", b"7" * length))[
            :length
        ]
    kind = chance.randrange(10)
    before = extended(chance, name, target) if not chance.randrange(8) else b""
    if kind < 3:
        return before + directory(name[:100], **fields)
    if kind < 5:
        return before + link(name[:100], target[:100], **fields)
    if kind == 5:
        return before + link(name[:100], chance.choice((target, *NAMES))[:100], b"1", **fields)
    if kind == 6:
        return before + header(
            name[:100], chance.choice((b"3", b"4", b"6", b"S", b"7", b"z")), **fields
        )
    if kind == 7:
        count = chance.choice((0, 1, 3))
        text = b"%d\n" % count + b"0\n1\n" * chance.randrange(4)
        return sparse(name or b"s", text, chance.choice((0, 10, 1 << 21, 1 << 62)))
    return before + member(name[:100], b"data" * chance.randrange(4), **fields)


def extended(chance: random.Random, name: bytes, target: bytes) -> bytes:
    """Headers before a member."""
    key, value = chance.choice(
        (
            (b"path", name),
            (b"linkpath", target),
            (b"size", b"%d" % chance.choice((0, 5, 1 << 40))),
            (b"uid", b"%d" % chance.choice((0, 7, 1 << 40))),
            (b"mtime", chance.choice((b"-1", b"1.5", b"9" * 19, b"x"))),
            (b"SCHILY.xattr." + chance.choice(XATTRS), chance.choice((b"", b"v", b"v" * 70_000))),
            (b"GNU.sparse.map", b"0,1"),
        )
    )
    if not chance.randrange(6):
        return member(
            b"././@LongLink", chance.choice((name, target)) + b"\0", chance.choice((b"L", b"K"))
        )
    return pax([(key, value)], chance.choice((b"x", b"x", b"g")))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "base")


def layers(chance: random.Random, targets: tuple[bytes, ...]) -> list[bytes]:
    def one() -> bytes:
        return b"".join(entry(chance, targets) for _ in range(chance.randrange(1, 9))) + END

    return [one() for _ in range(chance.randrange(1, 4))]


def test_random_layers_change_nothing_outside(watched: Watched) -> None:
    campaign.run("layers", lambda chance: watched.unpack(layers(chance, watched.targets)))


def test_damaged_layers_change_nothing_outside(watched: Watched) -> None:
    tokens = (*NAMES, *watched.targets, record(b"path", b"../v/f"), END)

    def check(chance: random.Random) -> None:
        sound = layers(chance, watched.targets)
        watched.unpack([campaign.mutated(layer, chance, tokens) for layer in sound])

    campaign.run("damaged layers", check)
