"""The recorder: none of its descriptors is left open; what its journal has counts in its order."""

from __future__ import annotations

import os
import resource
import stat
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from singbuild.ext3.node import Owner
from singbuild.privilege.recorder import AT_FDCWD, Recorder, _Place, inodes, owners
from singbuild.privilege.seccomp import Question


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_place_that_cannot_be_opened_leaves_nothing_open() -> None:
    question = Question(0, os.getpid(), "chown", ())
    before, limits = opened(), resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _Place(cast("Recorder", None), question, 100_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))  # for the root alone
    try:
        with pytest.raises(OSError, match="Too many open files"):
            _Place(cast("Recorder", None), question, AT_FDCWD)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert opened() == before


def test_an_owner_that_a_program_gives_counts_over_what_was_unpacked(tmp_path: Path) -> None:
    """It saw root there, whoever the archive's owner was: root is what it gives back."""
    tree, journal = tmp_path / "tree", tmp_path / "journal"
    tree.mkdir()
    # What a program asks for, and the owner in the end, where 5:6 was unpacked.
    rows = {
        b"user": ("7 -1", (7, 6)),
        b"group": ("-1 7", (5, 7)),
        b"both": ("8 9", (8, 9)),
        b"given-back": ("0 0", (5, 6)),
        b"nothing": ("", (5, 6)),
    }
    for name in rows:
        (tree / os.fsdecode(name)).touch()
    keys = inodes(tree, [*rows, b"not/there"])
    assert [*keys] == [*rows]
    journal.write_text(
        "".join(f"{keys[name]} {words}\n" for name, (words, _) in rows.items() if words)
    )
    device = Owner(5, 6, stat.S_IFCHR | 0o600, 259)
    unpacked = dict.fromkeys(rows, Owner(5, 6)) | {b"both": device}
    expected = {name: Owner(*ids) for name, (_, ids) in rows.items()}
    expected[b"both"] = replace(device, uid=8, gid=9)
    assert owners(tree, journal, unpacked) == expected
    assert owners(tree, journal)[b"given-back"] == Owner(0, 0)
