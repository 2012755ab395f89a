"""A hub's pages in Debian's Chromium: sizes, colours, keyboard, without JavaScript, by axe-core."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from singbuild.hub.site import Site
from tests.bench import hub_sites
from tests.bench.browser import PACKAGES, WIDTHS, Visit, axe_script, browser, chromium_program
from tests.bench.builds import SINGBUILD
from tests.long.clients.site import venv

pytestmark = [pytest.mark.long, pytest.mark.network]

TOOL = "lab/tools/python"


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("hub") / "site")
    site.open()
    hub_sites.laboratory(site, "https://hub.lab.example")
    return site


@pytest.fixture(scope="module")
def addresses(laboratory: Site) -> Iterator[dict[str, str]]:
    """Where the site is: as files, and served by ``hub serve``."""
    words = [*SINGBUILD, "hub", "serve", "--port", "0", str(laboratory.path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    yield {"files": f"file://{laboratory.path}/", "served": process.stdout.readline().strip()}
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not chromium_program():
        pytest.skip("needs chromium")
    with browser(venv("browser", PACKAGES)) as started:
        yield started


Open = Callable[..., Visit]


@pytest.fixture
def visit(chromium: Any, addresses: dict[str, str]) -> Iterator[Open]:
    """Open a tab; where: a key of ``addresses``. No page may write to the console."""
    opened = []

    def begin(where: str = "files", **more: Any) -> Visit:
        opened.append(Visit(chromium, addresses[where], **more))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()
    assert [fault for each in opened for fault in each.faults] == []


def places(site: Site) -> list[str]:
    """A page of each kind."""
    top = site.path / "lab/tools"
    older = next(
        path for path in (top / "python").glob("*/index.html") if path.parent.name != "files"
    )
    deep = next(iter((top / "compiler/files").glob("[0-9]*.html")))
    return [
        *("index.html", "compare.html", "lab/tools/index.html", f"{TOOL}/index.html"),
        *(f"{TOOL}/{name}" for name in ("files/index.html", "packages.html", "history.html")),
        *(f"{TOOL}/log.html", "lab/tools/mpi/index.html", "lab/tools/mpi/log.html"),
        *(str(path.relative_to(site.path)) for path in (older, deep)),
        "compare.html#lab/tools:base..lab/tools:git",
    ]


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("where", ["files", "served"])
def test_each_kind_of_page_fits_and_can_be_used_by_all(
    visit: Open, laboratory: Site, where: str, width: int, colours: str
) -> None:
    opened = visit(where, width=width, color_scheme=colours)
    axe = axe_script() if where == "files" else ""  # a server's pages let no other script in
    faults = {}
    for place in places(laboratory):
        tab = opened.go(place)
        if "#" in place:
            tab.reload()
            tab.get_by_text("paths differ").wait_for()
        size = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        faults[place] = opened.violations(axe) if axe else []
        faults[place] += [f"{size[0]} pixels wide"] * (size[0] > size[1])
    assert {place: result for place, result in faults.items() if result} == {}


@pytest.mark.parametrize("where", ["files", "served"])
def test_the_search_finds_images_packages_and_programs(visit: Open, where: str) -> None:
    tab = visit(where).go("index.html")
    tab.keyboard.press("/")
    tab.keyboard.type("libgcc-12")
    tab.get_by_role("link", name="libgcc-12-dev").first.click()
    assert tab.title().startswith("Packages of ")
    tab.get_by_label("Filter packages").fill("libgcc")
    tab.locator("tbody tr[hidden]").first.wait_for(state="attached")
    assert tab.locator("tbody tr:visible").count() >= 1
    tab.get_by_role("searchbox", name="Search images").fill("compil")
    tab.get_by_role("link", name="compiler image").wait_for()
    tab.keyboard.press("ArrowDown")
    tab.locator(".answers a:focus").wait_for()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/lab/tools/compiler/**")
    field = tab.get_by_role("searchbox", name="Search images")
    field.fill("no such word")
    tab.get_by_text("0 found").wait_for()
    tab.keyboard.press("Escape")
    assert field.input_value() == ""


def test_the_tree_opens_by_the_keyboard_and_filters(visit: Open) -> None:
    tab = visit().go(f"{TOOL}/files/index.html")
    tab.locator("summary", has_text="etc/").first.focus()
    tab.keyboard.press("Enter")
    opened = tab.locator("details[open]")
    assert opened.count() == 1
    tab.get_by_label("Filter names").fill("bash")
    tab.locator(".tree li[hidden]").first.wait_for(state="attached")
    assert tab.locator(".tree li:visible > .path", has_text="bash").count()
    assert not tab.locator(".tree li:visible > .path", has_text="host.conf").count()


def test_the_treemap_leads_to_its_directory(visit: Open) -> None:
    tab = visit().go(f"{TOOL}/index.html")
    area = tab.locator(".treemap.wide-shape a").first
    name = area.get_attribute("aria-label").split(",")[0]
    area.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/files/**")
    place = tab.locator("details:target > summary, h2.path").last
    assert name.rstrip("/").rpartition("/")[2] in place.text_content()
    assert place.is_visible()


@pytest.mark.parametrize("where", ["files", "served"])
def test_two_images_are_compared_in_the_browser(visit: Open, where: str) -> None:
    tab = visit(where).go("compare.html")
    tab.get_by_label("One image").fill("lab/tools:base")
    tab.get_by_label("Another").fill("lab/tools:git")
    tab.keyboard.press("Enter")
    tab.get_by_text("of file contents are in common").wait_for()
    assert tab.get_by_text("/usr/bin/git", exact=True).is_visible()
    tab.get_by_label("Another").fill("lab/tools:nothing")
    tab.get_by_role("button", name="Compare").click()
    tab.get_by_text("There is no image lab/tools:nothing here").wait_for()


def test_history_compares_two_builds(visit: Open) -> None:
    tab = visit().go(f"{TOOL}/history.html")
    tab.get_by_role("link", name="compare with the build before").first.click()
    tab.get_by_text("of file contents are in common").wait_for()
    tab.get_by_role("heading", name="Only in the second").wait_for()


def test_pages_are_whole_without_javascript(visit: Open) -> None:
    opened = visit(java_script_enabled=False)
    tab = opened.go("index.html")
    assert not tab.get_by_role("search").is_visible()
    tab.get_by_role("link", name="lab/tools").click()
    tab.get_by_role("link", name="compiler").first.click()
    assert tab.get_by_text("singrun run compiler.sif").is_visible()
    assert tab.locator(".treemap.wide-shape").is_visible()
    tab.get_by_role("link", name="Files", exact=True).click()
    tab.locator("summary", has_text="etc/").first.click()
    assert tab.get_by_text("compiler-version").is_visible()
    assert opened.go("compare.html").get_by_text("singbuild hub compare").is_visible()


def test_a_phone_has_a_treemap_of_its_own(visit: Open) -> None:
    tab = visit(width=360).go(f"{TOOL}/index.html")
    assert tab.locator(".treemap.narrow").is_visible()
    assert not tab.locator(".treemap.wide-shape").is_visible()
    letters = tab.locator(".treemap.narrow text").first.bounding_box()
    assert letters["height"] > 9


def test_a_command_is_copied(visit: Open, laboratory: Site) -> None:
    tab = visit("served", permissions=["clipboard-read", "clipboard-write"]).go(
        f"{TOOL}/index.html"
    )
    tab.get_by_role("button", name="Copy: Run it", exact=True).click()
    assert tab.evaluate("navigator.clipboard.readText()") == "singrun run python.sif"
    assert Path(laboratory.path).is_dir()
