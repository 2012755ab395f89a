"""The cache of snapshots when several builds keep the same ones."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from singbuild.cache import store
from singbuild.cache.snapshot import Snapshot
from singbuild.console.display import Console


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))


CONSOLE = Console(io.StringIO())
BASE = Snapshot("bootstrap", "a.def", {"backend": "1"})
POST = Snapshot("post", "a.def", {"%post": "1"}, BASE.key)


def put(snapshot: Snapshot, text: str, onto: str = "", *, whole: bool = False) -> None:
    """Keep a snapshot whose image is a text."""
    more = {"source": {}, "onto": onto}

    def write(part: Path) -> str:
        part.write_text(text)
        return store.digest(part)

    assert store.keep(snapshot, write, CONSOLE, more, whole=whole)


def texts(snapshot: Snapshot) -> list[str]:
    """Return the texts that the cache has of a snapshot, topmost first; [] when it has none."""
    with store.cached(snapshot, CONSOLE) as entry:
        return [each.image.read_text() for each in entry.chain] if entry else []


def base() -> str:
    with store.opened(BASE.key) as entry:
        assert entry
        return entry.base


def test_the_first_of_two_equal_ones_stays() -> None:
    put(BASE, "a whole tree")
    # One build laid the tree over the base, the other made all of it.
    put(POST, "what differs", base())
    put(POST, "a whole tree, too")
    assert texts(POST) == ["what differs", "a whole tree"]
    put(POST, "a whole tree for a registry", whole=True)
    assert texts(POST) == ["a whole tree for a registry"]
    put(POST, "what differs", base())
    assert texts(POST) == ["a whole tree for a registry"]


def test_a_damaged_one_is_replaced() -> None:
    put(POST, "first")
    (store.directory() / f"{POST.key}.img").write_text("damaged")
    assert texts(POST) == []
    put(POST, "second")
    assert texts(POST) == ["second"]


def test_what_was_compared_is_what_is_used_whatever_other_builds_do() -> None:
    put(BASE, "a whole tree")
    put(POST, "what differs", base())
    with store.cached(POST, CONSOLE) as entry:
        assert entry
        put(POST, "a whole tree for a registry", whole=True)
        store.drop(store.directory() / f"{BASE.key}.img")
        put(BASE, "another tree")
        assert [each.image.read_text() for each in entry.chain] == ["what differs", "a whole tree"]
    assert texts(POST) == ["a whole tree for a registry"]


def test_what_lies_over_a_tree_is_of_no_use_over_another_one_of_its_key() -> None:
    put(BASE, "a tree with today's date")
    put(POST, "what differs from it", base())
    store.drop(store.directory() / f"{BASE.key}.img")
    put(BASE, "a tree with tomorrow's date")
    assert texts(POST) == []
    assert [path.stem for path in store.directory().glob("*.img")] == [BASE.key]


def test_halves_of_entries_are_swept() -> None:
    put(BASE, "a tree")
    (store.directory() / "1.img").write_text("an image without a note")
    (store.directory() / "2.json").write_text("{}")
    store.prune(1 << 20)
    assert {path.stem for path in store.directory().iterdir()} == {BASE.key}
