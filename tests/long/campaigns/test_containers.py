"""Damaged SIF and squashfs files, through what opens one in the runtime and in the builder."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.errors import ImageError, SingbuildError
from singbuild.formats.loading import opened
from singbuild.images import inspection, verification
from singbuild.tar.write import archive
from singrun.errors import RunError
from singrun.images.image import open_image
from tests.bench import campaign
from tests.bench import sif_files as sifs
from tests.bench.sif_files import Object, partition
from tests.bench.singrun_images import HEADER_2X

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
VALUES = (0, 1, 2, 4, 0x7F, 0x80, 0xFFFF, 0x8000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)
MOST = 1 << 30  # bytes that a small image's archive may have


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A squashfs of each packing, bare and in each container."""
    base = tmp_path_factory.mktemp("sound")
    tree = base / "tree"
    (tree / ".singularity.d").mkdir(parents=True)
    (tree / ".singularity.d/labels.json").write_text('{"Title": "small"}')
    (tree / "etc").mkdir()
    (tree / "etc/os-release").write_text("PRETTY_NAME=Small\n")
    (tree / "big").write_bytes(random.Random(1).randbytes(30_000) + bytes(30_000))
    os.truncate(tree / "big", 90_000)
    (tree / "many").mkdir()
    for number in range(300):
        (tree / f"many/{number:03}").write_text(str(number))
    (tree / "link").symlink_to("x" * 200)
    os.link(tree / "big", tree / "again")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "big", "user.colour", b"blue")
    os.setxattr(tree / "etc", "user.long", b"x" * 600)
    result = []
    for packing in ("gzip", "zstd", "xz", "lzma"):
        image = base / packing
        words = ["mksquashfs", str(tree), str(image), "-quiet", "-no-progress", "-b", "4096"]
        subprocess.run([*words, "-comp", packing], check=True)
        result.append(image.read_bytes())
    recipe = Object(sifs.DEFFILE, b"Bootstrap: docker\n")
    whole = sifs.written(base / "a.sif", [recipe, partition(result[1], 1, arch=sifs.HOST)])
    return [*result, HEADER_2X + result[0], whole.read_bytes()]


class Damaged:
    """One of the files, damaged where its headers and tables are, or anywhere."""

    def __init__(self, sound: list[bytes], path: Path) -> None:
        self.sound, self.path = sound, path

    def __call__(self, chance: random.Random) -> str | None:
        data = bytearray(chance.choice(self.sound))
        for at, value in self.changes(data, chance):
            data[at : at + len(value)] = value
        cut = chance.randrange(10) == 0
        self.path.write_bytes(data[: chance.randrange(len(data))] if cut else data)
        refused = []
        try:
            os.close(open_image(str(self.path)).fd)
        except RunError:
            refused.append("started")
        try:
            self.read()
        except SingbuildError:
            refused.append("read")
        return f"not {' nor '.join(refused)}" if refused else None

    def changes(self, data: bytearray, chance: random.Random) -> Iterator[tuple[int, bytes]]:
        start = data.find(b"hsqs")
        tables = [
            start + int.from_bytes(data[start + at : start + at + 8], "little")
            for at in (48, 56, 64, 72, 80)
        ]
        places = [0, start, data.find(b"SIF_MAGIC") - 32, sifs.TABLE]
        for _ in range(chance.choice((1, 1, 2, 5))):
            begin = chance.choice([*places, *tables, chance.randrange(len(data))])
            at = min(max(0, begin), len(data)) + chance.randrange(128)
            size = chance.choice((1, 2, 4, 8))
            value = chance.choice((chance.choice(VALUES), chance.randrange(1 << 64)))
            yield at, value.to_bytes(8, "little")[:size]

    def read(self) -> None:
        """Read all that there is; nothing but an ImageError may come of it."""
        with opened(self.path) as tree:
            facts = inspection.summary(tree)
            assert inspection.described(facts).replace("\n", "").isprintable()
            total = 0
            for piece in archive(tree):
                total += len(piece)
                if total > MOST:  # of files with holes, as large as they say
                    break
        with contextlib.suppress(ImageError):
            verification.verify(self.path)


def test_a_damaged_container_is_read_or_refused(sound: list[bytes], tmp_path: Path) -> None:
    campaign.run("containers", Damaged(sound, tmp_path / "damaged"))
