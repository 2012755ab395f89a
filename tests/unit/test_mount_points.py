"""Mount points are made by descriptor: a link that somebody puts in the way is not followed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from singrun.errors import RunError
from singrun.mounts import root
from singrun.mounts.root import Root, _make_entry

_swap: list[Path] = []  # a hook stays for ever: what it does, once


def _swapped(event: str, arguments: tuple[Any, ...]) -> None:
    """Put a link to the second place of ``_swap`` into the first, before it is opened."""
    if _swap and event == "open" and arguments[0] == _swap[0].name:
        place, victim = _swap
        _swap.clear()
        place.rmdir()
        place.symlink_to(victim)


@pytest.mark.parametrize("directory", [True, False])
def test_a_link_that_comes_in_the_way_is_not_followed(tmp_path: Path, directory: bool) -> None:
    victim, place = tmp_path / "victim", tmp_path / "place"
    victim.mkdir()
    place.mkdir()
    sys.addaudithook(_swapped)
    where = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        _make_entry(where, ["before", "point"], directory=directory)
        assert (place / "before/point").is_dir() is directory
        _swap[:] = [place / "swapped", victim]
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            _make_entry(where, ["swapped", "point"], directory=directory)
    finally:
        _swap.clear()
        os.close(where)
    assert (place / "swapped").is_symlink()
    assert list(victim.iterdir()) == []


def test_a_file_that_was_read_in_part_is_read_whole_afterwards(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"all of it")
    one = Root(str(tmp_path), image_is_written=False)
    assert [one.read("/file", 3), one.read("/file"), one.read("/file", 3)] == [
        b"all",
        b"all of it",
        b"all",
    ]


def test_files_of_one_root_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image may have any number of scripts, all of them holes."""
    monkeypatch.setattr(root, "_MOST", 2 << 20)
    for name in "abc":
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 20)
    one = Root(str(tmp_path))
    assert one.read("/a") + one.read("/b") == bytes(2 << 20)
    with pytest.raises(RunError, match="too large"):
        one.read("/c")
