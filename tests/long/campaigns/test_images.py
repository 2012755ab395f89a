"""Damaged images, through everything that reads one without mounting it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from singbuild.errors import SingbuildError
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.seal import seal
from singbuild.images import difference, inspection, verification
from singbuild.tar.write import archive
from tests.bench import campaign

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
METADATA = 64 << 10  # bytes: superblock, group descriptors, bitmaps and the first inodes
VALUES = (0, 1, 2, 11, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x8000, 0xEF53, 0xEA020000)
FILES = {
    ".singularity.d/labels.json": '{"Title": "small"}',
    ".singularity.d/lock.yaml": "version: 1\nbackend: {name: busybox}\n",
    ".singularity.d/runscript": "#!/bin/sh\n",
    "etc/os-release": "PRETTY_NAME=Small\n",
    "var/lib/dpkg/status": "Package: a\nStatus: install ok installed\nVersion: 1\n",
    "lib/apk/db/installed": "P:musl\nV:1\nA:x86_64\n\n",
    "usr/lib/python3/dist-packages/a-1.dist-info/METADATA": "Name: a\nVersion: 1\n",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image with every kind of entry."""
    base = tmp_path_factory.mktemp("sound")
    tree = base / "tree"
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "big").write_bytes(random.Random(1).randbytes(90_000))
    with (tree / "holes").open("wb") as file:
        file.seek(40_000)
        file.write(b"end")
    (tree / "many").mkdir()
    for number in range(60):
        (tree / f"many/{number:03}").touch()
    (tree / "short").symlink_to("big")
    (tree / "long").symlink_to("x" * 200)
    os.link(tree / "big", tree / "again")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "big", "user.colour", b"blue")
    return seal(tree, base / "image", epoch=2**30).path


class Damaged:
    """A copy of the image that is damaged and made sound again."""

    def __init__(self, sound: Path, path: Path) -> None:
        self.sound, self.path = sound, path
        self.content = sound.read_bytes()
        self.used = [*self.blocks()]
        path.write_bytes(self.content)

    def blocks(self) -> Iterator[int]:
        """Where there is anything."""
        for at in range(0, len(self.content), 1024):
            if any(self.content[at : at + 1024]):
                yield at

    def __call__(self, chance: random.Random) -> str | None:
        changes = [self.change(chance) for _ in range(chance.choice((1, 1, 2, 5)))]
        fd = os.open(self.path, os.O_RDWR)
        try:
            for at, data in changes:
                os.pwrite(fd, data, at)
            return self.outcome(chance)
        finally:
            for at, data in changes:
                os.pwrite(fd, self.content[at : at + len(data)], at)
            os.ftruncate(fd, len(self.content))
            os.close(fd)

    def change(self, chance: random.Random) -> tuple[int, bytes]:
        at = chance.choice(self.used) + chance.randrange(1024)
        if chance.randrange(2):
            at = 1024 + chance.randrange(min(METADATA, len(self.content) - 1024))
        size = chance.choice((1, 2, 4, 4, 8, 64))
        at -= at % size
        if chance.randrange(2):
            data = chance.choice(VALUES).to_bytes(8, "little")[: min(size, 8)]
        else:
            data = chance.randbytes(size)
        return at, data[: len(self.content) - at]

    def outcome(self, chance: random.Random) -> str | None:
        """Read all that there is, in two ways; neither may fail otherwise than refusing."""
        refused = [way.__name__ for way in chance.sample(WAYS, 2) if is_refused(way, self)]
        return f"not {' and '.join(sorted(refused))}" if refused else None


def is_refused(way: Callable[[Damaged], None], damaged: Damaged) -> bool:
    try:
        way(damaged)
    except SingbuildError:
        return True
    return False


def inspected(damaged: Damaged) -> None:
    with Image(damaged.path) as image:
        facts = inspection.summary(image)
        assert inspection.described(facts).replace("\n", "").isprintable()
        inspection.bill(image)


def exported(damaged: Damaged) -> None:
    with Image(damaged.path) as image:
        assert sum(map(len, archive(image))) < 1 << 30


def compared(damaged: Damaged) -> None:
    with Image(damaged.path) as one, Image(damaged.sound) as other:
        for change in difference.files(one, other):
            assert change
        difference.package_changes(one, other)


def verified(damaged: Damaged) -> None:
    verification.verify(damaged.path)


WAYS = (inspected, exported, compared, verified)


def test_a_damaged_image_is_read_or_refused(sound: Path, tmp_path: Path) -> None:
    campaign.run("images", Damaged(sound, tmp_path / "damaged"))
