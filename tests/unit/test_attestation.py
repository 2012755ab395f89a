"""What is said of an image that was built again and came out another."""

from __future__ import annotations

import tracemalloc

from singbuild.images.difference import ADDED, FileChange
from singbuild.signatures.attestation import _differing

PATHS = 50_000


def test_memory_does_not_grow_with_the_paths_that_differ() -> None:
    changes = (FileChange(ADDED, b"%d" % number) for number in range(PATHS))
    tracemalloc.start()
    try:
        error = _differing(changes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"differs in {PATHS} paths" in str(error)
    lines = error.why.split("\n")
    assert (lines[0], lines[-1]) == ("added: /0", f"… and {PATHS - 200} more")
    assert len(lines) == 201
    assert peak < 1 << 20
