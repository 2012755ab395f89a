"""README and the pages: each command that they show is typed, and says what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import pages

pytestmark = pytest.mark.root


@pytest.mark.slow("a page builds several images")
@pytest.mark.parametrize("page", pages.pages(long=False), ids=lambda page: page.name)
def test_every_command_of_the_page(
    page: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("pages", dict(pages.execute(page, long=False)))  # xdist sends plain values


@pytest.mark.slow("it makes a host of its own for each page")
@pytest.mark.parametrize(
    "block",
    ["```sh\nfalse\ntrue\n```", "```console\n$ echo one\ntwo\n```", "```console\n$ exit 3\n```"],
    ids=["a command fails", "another answer", "the shell ends"],
)
def test_a_page_that_is_wrong_fails(block: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n\n{block}\n")
    with pytest.raises(AssertionError):
        pages.execute(tmp_path / "page.md", long=False)


def test_what_does_not_run_is_marked(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- test: not here: no such host -->\n```sh\nfalse\n```\n")
    block = pages.blocks(tmp_path / "page.md")[0]
    assert (block.reason, block.is_ours) == ("no such host", False)
