"""The cache of snapshots when several builds keep the same ones."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from singbuild.cache import store
from singbuild.console.display import Console


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))


def keep(snapshot: store.Snapshot, text: str, onto: str = "", *, whole: bool = False) -> str:
    """Keep a snapshot whose image is a text; return the text that the cache has then."""
    more = {"source": {}, "onto": onto}
    console = Console(io.StringIO())

    def write(part: Path) -> str:
        part.write_text(text)
        return store.digest(part)

    assert store.keep(snapshot, write, console, more, whole=whole)
    entry = store.find(snapshot, console)
    assert entry
    return entry.path.read_text()


def test_the_first_of_two_equal_ones_stays() -> None:
    base = store.Snapshot("bootstrap", "a.def", {"backend": "1"})
    post = store.Snapshot("post", "a.def", {"%post": "1"}, base.key)
    assert keep(base, "a whole tree") == "a whole tree"
    # One build laid the tree over the base, the other made all of it.
    assert keep(post, "what differs", base.key) == "what differs"
    assert keep(post, "a whole tree, too") == "what differs"
    assert keep(post, "a whole tree for a registry", whole=True) == "a whole tree for a registry"
    assert keep(post, "what differs", base.key) == "a whole tree for a registry"


def test_a_damaged_one_is_replaced() -> None:
    post = store.Snapshot("post", "a.def", {"%post": "1"})
    assert keep(post, "first") == "first"
    (store.directory() / f"{post.key}.img").write_text("damaged")
    assert store.find(post, Console(io.StringIO())) is None
    assert keep(post, "second") == "second"
