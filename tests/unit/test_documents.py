"""The documents name only files that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from singrun import option_variables, options

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_every_named_source_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    sources = re.findall(
        r"`((?:singbuild|singrun|plugins|tests/(?:unit|host))/[\w/]*(?:\.py)?)`", text
    )
    paths = [page.parent / link for link in links] + [ROOT / source for source in sources]
    assert [str(path) for path in paths if not path.exists()] == []


def test_every_heading_that_a_source_cites_is_there() -> None:
    citations = {
        citation
        for wing in ("singbuild", "singrun", "plugins")
        for path in (ROOT / wing).rglob("*.py")
        for citation in re.findall(r'(docs/[\w-]+\.md), "([^"\n]+)"', path.read_text())
    }
    assert len(citations) > 3
    assert [
        (page, heading)
        for page, heading in citations
        if not re.search(rf"^#+ {re.escape(heading)}$", (ROOT / page).read_text(), re.M)
    ] == []


def test_an_sdist_has_all_that_the_pages_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    parts |= {"README.md", "LICENSE", "pyproject.toml"}  # hatch adds them
    text = "".join(page.read_text() for page in PAGES)
    others = {".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines())}
    there = {path.name for path in ROOT.iterdir()} - others
    names = {name for name in there if re.search(rf"[`(/]{re.escape(name)}[`)/#]", text)}
    assert {"SECURITY.md", "benchmarks"} <= names
    assert names - parts == set()


def test_the_first_examples_need_no_root() -> None:
    """README says that nobody needs root; sudo would not find a command in a user's home."""
    for name in ("README.md", "docs/first-image.md"):
        assert "sudo" not in (ROOT / name).read_text(), name


def test_an_installation_leaves_the_users_python_alone() -> None:
    """A directory of ours on the PATH would have its python, pip and normalizer come first."""
    page = (ROOT / "README.md").read_text().partition("## Install")[2].partition("\n## ")[0]
    assert "pipx install ." in page
    assert "export PATH" not in page.replace('export PATH="/tmp/pipx/bin:$PATH" -->', "")


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_the_architecture_has_a_line_for_every_wing() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for package in ("singbuild", "singrun"):
        rows = re.search(rf"^\| wing of `{package}/` .*\n((\|.*\n)+)", text, re.M)
        assert rows
        wings = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert set(re.findall(r"^\| `(\w+)/` \|", rows[1], re.M)) == wings


def test_no_variable_of_ours_is_missing() -> None:
    text = (ROOT / "docs/variables.md").read_text()
    sources = [*(ROOT / "bin").iterdir()]
    for package in ("singbuild", "singrun", "plugins"):
        sources += (ROOT / package).rglob("*.py")
    ours = {
        name
        for path in sources
        for name in re.findall(r"\b(?:SINGBUILD|SINGRUN)_[A-Z_]+\b", path.read_text())
    }
    assert "SINGRUN_CACHEDIR" in ours
    assert sorted(name for name in ours if f"`{name}`" not in text) == []


def test_every_variable_that_stands_for_an_option_is_documented() -> None:
    text = (ROOT / "docs/variables.md").read_text()
    rows = dict(re.findall(r"^\| ((?:`…_\w+`(?:, )?)+) \| (.*) \|$", text, re.M))
    documented = {
        name: options for names, options in rows.items() for name in re.findall(r"…_(\w+)", names)
    }
    assert documented.keys() == option_variables.OPTIONS.keys()
    for name, option in option_variables.OPTIONS.items():
        assert f"`--{option}`" in documented[name], name
        assert option in {*options.FLAGS, *options.VALUES}


def test_every_message_in_troubleshooting_is_one_that_is_printed() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(messages) > 20
    sources = [ROOT / "bin/singrun"]
    for package in ("singbuild", "singrun"):
        sources += (ROOT / package).rglob("*.py")
    # Strings that are joined over several lines of source are one message.
    text = "\n".join(re.sub(r'"\n\s*f?"', "", path.read_text()) for path in sources)
    parts = [part.strip() for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in text] == []


def anchors(page: Path) -> set[str]:
    """What a browser takes as the places of a page: its headings, as GitHub names them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_place_that_is_linked_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text())
    targets = [(page.parent / name if name else page, place) for name, place in links]
    assert [f"{path}#{place}" for path, place in targets if place not in anchors(path)] == []
