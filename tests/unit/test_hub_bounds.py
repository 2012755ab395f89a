"""Commits that are made to cost a hub time or memory: chains, large recipes, long lists."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import pytest

from singbuild.errors import SingbuildError
from singbuild.formats import loading
from singbuild.hub import recipes, work
from singbuild.hub.recipes import Inputs
from singbuild.hub.repository import Blob
from singbuild.hub.site import Site
from singbuild.hub.work import Settings
from tests.unit.test_hub import BUSYBOX, Commit, cache, commit, git, surveyed

__all__ = ["cache", "commit", "git"]
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
LENGTH = 1100  # Python calls 1,000 functions from each other


def test_a_chain_of_any_length_is_put_in_order_and_ends_with_its_first_failure(
    commit: Commit, tmp_path: Path
) -> None:
    if any(not shutil.which(each.name) for each in loading.find(work.FORMAT).format.programs):
        pytest.skip("needs the programs that make an image")
    start = "Bootstrap: localimage\nFrom: t{}.sif\n"
    files = {f"t{n}.def": start.format(n - 1) for n in range(1, LENGTH)}
    commit({"t0.def": f"{BUSYBOX}%setup\n  true\n", **files})
    outcome = surveyed(tmp_path)
    assert [*outcome.units] == [f"t{n}" for n in range(LENGTH)]
    site, lines = Site(tmp_path / "site"), list[str]()
    site.open()
    last = outcome.units[f"t{LENGTH - 1}"]
    checkout = tmp_path / "checkout0"
    assert not work.build(site, outcome, last, checkout, Settings(), lines.append)
    assert len(lines) == LENGTH
    record = site.record(last.key)
    assert f"t{LENGTH - 2}, could not be built" in record["error"]["text"]
    assert record["source"] == start.format(LENGTH - 2)


def test_recipes_are_not_held_in_memory(commit: Commit, tmp_path: Path) -> None:
    texts = {f"t{number}.def": f"{BUSYBOX}# {'x' * 1_000_000}\n" for number in range(40)}
    commit({"large.def": "#" * (2 << 20), **texts})
    del texts
    tracemalloc.start()
    try:
        units = surveyed(tmp_path).units
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "large.def is too large for a recipe" in units["large"].error
    assert [tag for tag, unit in units.items() if unit.error] == ["large"]
    assert size < 20 << 20


def test_more_names_than_can_be_looked_for_are_refused(tmp_path: Path) -> None:
    lines = "".join(f"  f{number} /f\n" for number in range(5000))
    (tmp_path / "a.def").write_text(f"{BUSYBOX}%files\n{lines}")
    recipe = recipes.load("a.def", tmp_path)

    def read(count: int) -> Inputs:
        files = {f"f{number}": Blob(f"f{number}", 0o100644, "0", 0) for number in range(count)}
        return recipes.inputs("a.def", recipe, files)

    assert len(read(20).files) == 20
    with pytest.raises(SingbuildError, match=r"names 5,000 files to copy, in a commit of 5,000"):
        read(5000)
