"""A seal and a comparison of many files take the memory of one of few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.image_trees import EPOCH, many_files, with_manifest

WORK = f"""
import sys, tracemalloc
from functools import partial
from pathlib import Path
from singbuild.ext3.writer.seal import seal, seal_tree
from singbuild.ext3.writer.spool import Spool
from singbuild.formats.loading import opened
from singbuild.images.verification import verify
Spool.in_memory = 100_000
tree, image, other = map(Path, sys.argv[1:])
with_image = lambda: seal_tree(opened(image), other, epoch={EPOCH})
for work in (partial(seal, tree, image, epoch={EPOCH}), partial(verify, image), with_image):
    tracemalloc.start()
    work()
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


def peaks(place: Path, directories: int) -> list[int]:
    """Bytes that a seal, a comparison and a second seal, of the image, have at a time."""
    tree = with_manifest(many_files(place / f"{directories}", directories))
    words = [sys.executable, "-c", WORK, str(tree), f"{tree}.img", f"{tree}-again.img"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return [int(line) for line in done.stdout.splitlines()]


@pytest.mark.long
@pytest.mark.slow("fifty thousand files, and every allocation is counted")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    """In lists an inode took 500 bytes of a seal's memory, and 1,000 of a comparison's.

    What remains is what waits for the threads, and 8 bytes for an inode here and there.
    """
    for few, many in zip(peaks(tmp_path, 100), peaks(tmp_path, 400), strict=True):
        assert many - few < 30_000 * 150
