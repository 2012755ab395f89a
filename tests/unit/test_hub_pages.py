"""A hub's pages and what they are made of, without a build."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.errors import SingbuildError
from singbuild.hub import check, collection, contents, file_pages, pages, registry
from singbuild.hub.contents import File
from singbuild.hub.repository import Commit
from singbuild.hub.site import Site, dumped
from singbuild.hub.work import Survey, Unit


def crafted(tmp_path: Path, *hostile: str) -> Site:
    """A site of one image and one failure, in which all that can be text is one of ``hostile``."""
    text = itertools.cycle(hostile).__next__
    site = Site(tmp_path / "site")
    site.open()
    files = [File("/", "d", 0o755, 0, ""), File(f"/{text()}", "f", 0o644, 9, "ab" * 8)]
    files += [File("/usr", "d", 0o755, 0, ""), File("/usr/bin", "d", 0o755, 0, "")]
    files += [File(f"/usr/bin/{text().replace('/', '')}", "l", 0o777, 0, text())]
    facts = {
        "digest": None, "size": 1, "used": 1, "kind": text(), "system": text(), "backend": None,
        "labels": {text(): text()}, "environment": {text(): text()}, "machine": "amd64",
        "packages": [{"kind": "deb", "name": text(), "version": text(), "size": 1}],
        "notes": [text()], "apps": {text(): {"helpfile": text()}}, "directories": {},
        "recipe": text(), "lock": text(), "runscript": text(), "test": text(), "help": text(),
    }  # fmt: skip
    record = {
        "version": 1, "key": "1" * 32, "tag": "tool", "path": text(), "source": f"{text()}\nx",
        "commit": {"id": "0" * 40, "time": 0}, "status": "built", "reproducible": None,
        "image": {"sha256": "0" * 64, "md5": "0" * 32, "size": 5}, "files": len(files),
        "sketch": contents.sketch(files), "shown": facts, "programs": contents.programs(files),
        "licences": {text(): 1},
    }  # fmt: skip
    site.write_files("1" * 32, files)
    site.write(f"records/{'1' * 32}.json", dumped(record))
    site.write(f"records/{'1' * 32}.spdx.json", "{}")
    site.write(f"images/{'1' * 32}.sif", "image")
    run = {"began": 0, "seconds": 1.0, "steps": [{"name": text(), "seconds": 1}], "log": [text()]}
    site.write(f"runs/{'1' * 32}.json", dumped(run))
    bad = {"version": 1, "key": "2" * 32, "tag": "bad", "path": "bad.def", "source": text()}
    bad |= {"commit": record["commit"], "status": "failed", "error": {"status": 3, "text": text()}}
    site.write(f"records/{'2' * 32}.json", dumped(bad))
    commit = type("C", (), {"id": "0" * 40, "time": 0, "subject": text()})()
    units = {"tool": Unit("tool", text(), "1" * 32), "bad": Unit("bad", "bad.def", "2" * 32)}
    collection.add(
        site, "lab/tools", "https://x.invalid/a", Survey(commit, units, {text(): text()})
    )
    return site


ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """
html head meta title link body a header nav ol li span form label input div ul main h1 h2 h3 p
dl dt dd code pre section table caption thead tbody tr th td footer script svg g rect text path
details summary small img i b figure figcaption aside noscript button
""",
    )
)


class Elements(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[str] = []
        self.scripts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag == "script":
            self.scripts.append((dict(attrs).get("src") or "inline").rpartition("/")[2])
        if tag == "img":
            assert dict(attrs)["src"] == "badge.svg"


HOSTILE = [
    "<script>alert(1)</script>",
    "</pre><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "</script><script>alert(1)//",
    "\u2028\u0000\x1b[31m'",
    "\ud800",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_that_comes_from_outside_is_markup_in_a_page(tmp_path: Path, hostile: str) -> None:
    site = crafted(tmp_path, hostile)
    outcome = collection.load(site, "lab/tools")
    registry.write(site, outcome, "https://hub.invalid")
    registry.write_service(site, site.collections(), "https://hub.invalid")
    pages.write(site, ["lab/tools"], "https://hub.invalid")
    html = sorted(site.path.rglob("*.html"))
    assert len(html) > 8
    for page in html:
        parser = Elements()
        parser.feed(page.read_text())
        allowed_scripts = ["hub.js", "compare.js"] if page.name == "compare.html" else ["hub.js"]
        assert parser.scripts == allowed_scripts, page
        assert [name for name in parser.attributes if name.startswith("on")] == []
        assert parser.elements <= ELEMENTS
    for picture in (*site.path.rglob("*.svg"), *site.path.rglob("*.xml")):
        ElementTree.fromstring(picture.read_bytes())
    scripts = [*(site.path / "search").glob("*.js"), site.path / "lab/tools/keys.js"]
    assert len(scripts) > 3
    for script in scripts:
        text = script.read_text()
        assert "<" not in text
        json.loads(text.partition(",")[2].removesuffix(");\n"))
    faults = [fault for fault in check.faults(site) if "images/" not in fault]
    assert faults == []


def test_pages_of_many_files_stay_small(tmp_path: Path) -> None:
    files = [
        File(f"/usr/lib/{f'd{n % 300}/' * (n % 2)}{'long' * 8}{n}.so", "f", 0o644, n, "0" * 16)
        for n in range(30_000)
    ]
    site = crafted(tmp_path, "plain")
    site.write_files("1" * 32, files)
    pages.write(site, ["lab/tools"])
    html = list((site.path / "lab/tools/tool/files").glob("*.html"))
    assert len(html) > 20
    assert max(page.stat().st_size for page in html) < 300_000
    names = {name for page in html for name in re.findall(r"(?:long){8}\d+\.so", page.read_text())}
    assert len(names) == 30_000


def test_a_tree_of_any_depth_has_its_pages(tmp_path: Path) -> None:
    paths = ["/d" * depth for depth in range(1, 2040)]
    files = [File(path, "d", 0o755, 0, "") for path in paths]
    files.append(File(f"{paths[-1]}/bottom", "f", 0o644, 7, "0" * 16))
    site = crafted(tmp_path, "plain")
    site.write_files("1" * 32, files)
    pages.write(site, ["lab/tools"])
    page = (site.path / "lab/tools/tool/files/index.html").read_text()
    assert "/bottom</span>" in page


def test_pages_of_many_packages_stay_small(tmp_path: Path) -> None:
    site = crafted(tmp_path, "plain")
    record = site.record("1" * 32)
    record["shown"]["packages"] = [
        {
            "kind": "deb",
            "name": f"texlive-of-some-kind-{n}",
            "version": "2024.20250309-1",
            "size": n,
        }
        for n in range(4000)
    ]
    site.write(f"records/{'1' * 32}.json", dumped(record))
    pages.write(site, ["lab/tools"])
    html = list((site.path / "lab/tools/tool").glob("packages*.html"))
    assert max(page.stat().st_size for page in html) < 300_000
    names = {n for page in html for n in re.findall(r"some-kind-\d+", page.read_text())}
    assert len(names) == 4000
    assert [fault for fault in check.faults(site) if "packages" in fault] == []


def commit_of(number: int) -> Commit:
    return Commit(f"{number:040x}", number, f"commit {number}")


def test_a_collection_of_many_images_and_commits_stands_on_as_many_pages_as_it_takes(
    tmp_path: Path,
) -> None:
    site = crafted(tmp_path, "plain")

    def add(number: int, count: int) -> None:
        path = f"recipes/{'long' * 15}.def"
        units = {f"tool-{'t' * 50}-{n:04}": Unit("", path, "2" * 32) for n in range(count)}
        left_out = {f"recipes/of/another/kind/{n}": "is no recipe" for n in range(1000)}
        survey = Survey(commit_of(number), units, left_out)
        collection.add(site, "lab/tools", "https://x.invalid/a", survey)

    add(1, 610)
    content = site.load("lab/tools/collection.json")
    _, commit = content["commits"]
    rows = [*commit["builds"].items()]
    # Of each commit but the newest, more than pages and feeds name; every other one adds an image.
    some = [{"builds": dict(rows[at:61]), "left_out": {}} for at in (1, 0)]
    commits = [
        {**commit, "id": f"{n:040x}", "time": n, **(some[n % 2] if n < 119 else {})}
        for n in range(120)
    ]
    site.write("lab/tools/collection.json", json.dumps({**content, "commits": commits}))
    pages.write(site, ["lab/tools"])
    place = site.path / "lab/tools"
    html = sorted(place.glob("*.html"))
    assert [page.name for page in html] == ["index-2.html", "index-3.html", "index.html"]
    assert max(page.stat().st_size for page in html) < 300_000
    text = "".join(page.read_text() for page in html)
    links = re.findall(r'<th scope="row"><a href="(.*?)/', text)
    assert (len(links), len({*links})) == (610, 610)
    assert (place / "feed.xml").stat().st_size < 300_000
    assert [fault for fault in check.faults(site) if "index" in fault] == []
    (place / "index-of.html").mkdir()  # a tag's
    add(120, 2)
    pages.write(site, ["lab/tools"])
    assert {page.name for page in place.glob("*.html")} == {"index.html", "index-of.html"}


def test_many_collections_stand_on_as_many_pages_as_it_takes(tmp_path: Path) -> None:
    site = crafted(tmp_path, "plain")
    pages.write(site, ["lab/tools"])
    for number in range(610):
        place = site.path / f"{'o' * 35}-{number:03}/{'n' * 60}"
        place.mkdir(parents=True)
        for name in ("collection.json", "summary.json.gz"):
            (place / name).write_bytes((site.path / "lab/tools" / name).read_bytes())
    pages.write(site, ["lab/tools"])
    html = sorted(site.path.glob("index*.html"))
    assert [page.name for page in html] == ["index-2.html", "index-3.html", "index.html"]
    assert max(page.stat().st_size for page in html) < 300_000
    text = "".join(page.read_text() for page in html)
    assert len({*re.findall(r'<th scope="row"><a href="(.*?)/index.html', text)}) == 611


def test_a_recipe_of_many_lines_stays_on_a_small_page(tmp_path: Path) -> None:
    site = crafted(tmp_path, "plain")
    record = site.record("1" * 32)
    site.write(f"records/{'1' * 32}.json", dumped({**record, "source": "\n" * 50_000}))
    pages.write(site, ["lab/tools"])
    page = site.path / "lab/tools/tool/index.html"
    assert page.stat().st_size < 300_000
    assert "The rest of it is in the record." in page.read_text()


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map("/".join)


@given(st.lists(NAMES, max_size=60, unique=True))
def test_a_tree_has_every_file_once_on_its_pages(names: list[str]) -> None:
    files = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
    root = file_pages.tree([File(f"/{name}", "f", 0o644, 1, "") for name in files])
    above = {str(each) for name in files for each in Path(name).parents} - {"."}
    assert (root.size, root.count) == (len(files), len(files) + len(above))
    paths: list[str] = []

    def collect(nodes: Sequence[file_pages.Node]) -> None:
        for each in nodes:
            if each.kind == "f":
                paths.append(each.path)
            elif not each.page:
                collect(each.children or ())

    for page in file_pages.pages(root):
        collect(page.children)
    assert sorted(paths) == sorted(f"/{name}" for name in files)


def test_holes_of_any_size_cost_no_time_and_are_told_apart(tmp_path: Path) -> None:
    """To read as many zeros would take an hour."""
    rows = {"a": (0, 4 << 40), "b": (0, 4 << 40), "c": (0, 3 << 40), "d": (1 << 20, 4 << 40)}
    for name, (offset, size) in rows.items():
        with (tmp_path / name).open("wb") as file:
            file.seek(offset)
            file.write(b"data" * 1024)
            file.truncate(size)
    (tmp_path / "full").write_bytes(b"data" * 1024)
    digests = {each.path: each.content for each in contents.files(tmp_path) if each.kind == "f"}
    assert digests.pop("/a") == digests["/b"]
    assert len({*digests.values()}) == len(digests) == 4
    assert digests["/full"] == hashlib.sha256(b"data" * 1024).hexdigest()[:16]


def test_a_sketch_estimates_what_two_images_share() -> None:
    def files(numbers: range) -> list[File]:
        names = (hashlib.sha256(str(n).encode()).hexdigest()[:16] for n in numbers)
        return [File(f"/{name}", "f", 0o644, 1, name) for name in names]

    one, other = contents.sketch(files(range(10_000))), contents.sketch(files(range(5000, 15_000)))
    assert contents.similarity(one, one) == 1
    assert contents.similarity(one, other) == pytest.approx(1 / 3, abs=0.12)
    assert contents.similarity(one, contents.sketch(files(range(20_000, 30_000)))) == 0


def test_a_difference_names_what_was_added_removed_and_changed() -> None:
    was = [
        File("/a", "f", 0o644, 1, "1"),
        File("/b", "f", 0o644, 1, "1"),
        File("/c", "l", 0, 0, "x"),
    ]
    now = [
        File("/a", "f", 0o755, 1, "1"),
        File("/c", "l", 0, 0, "x"),
        File("/d", "d", 0o755, 0, ""),
    ]
    outcome = contents.difference(was, now)
    assert outcome == (["/d"], ["/b"], ["/a"])
    assert outcome.total == 3


def test_a_directory_that_is_no_site_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(SingbuildError, match="not empty"):
        Site(tmp_path).open()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_damaged_record_is_told_of(tmp_path: Path) -> None:
    site = crafted(tmp_path, "plain")
    site.write(f"records/{'1' * 32}.json", "{")
    with pytest.raises(SingbuildError, match="is damaged"):
        pages.write(site, ["lab/tools"])
    assert any("damaged" in fault for fault in check.faults(site))


def test_a_token_of_an_older_collection_is_shown_no_longer(tmp_path: Path) -> None:
    site = crafted(tmp_path, "plain")
    content = site.load("lab/tools/collection.json")
    old = {**content, "source": "https://ada:s3@cret@x.invalid/a"}
    site.write("lab/tools/collection.json", dumped(old))
    pages.write(site, ["lab/tools"])
    assert 'href="https://x.invalid/a"' in (site.path / "lab/tools/index.html").read_text()
    units = {"tool": Unit("tool", "tool.def", "1" * 32)}
    collection.add(site, "lab/tools", old["source"], Survey(commit_of(1), units, {}))
    assert site.load("lab/tools/collection.json")["source"] == "https://x.invalid/a"


@pytest.mark.parametrize(("lines", "is_shown"), [(500, True), (40_000, False)])
def test_a_change_of_very_many_lines_is_not_shown(
    tmp_path: Path, lines: int, is_shown: bool
) -> None:
    """To compare them would take hours: each of 128 lines occurs hundreds of times."""
    site = crafted(tmp_path, "plain")
    record = site.record("1" * 32)
    texts = ("".join(f"# {n * step % 128}\n" for n in range(lines)) for step in (1, 5))
    for key, text in zip("13", texts, strict=True):
        site.write(f"records/{key * 32}.json", dumped({**record, "source": text}))
    units = {"tool": Unit("tool", "tool.def", "3" * 32)}
    collection.add(site, "lab/tools", "", Survey(commit_of(1), units, {}))
    pages.write(site, ["lab/tools"])
    text = (site.path / "lab/tools/tool/index.html").read_text()
    assert ("Its last change" in text) == is_shown


def test_the_record_that_makes_a_build_count_is_joined_last(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, site, key = crafted(tmp_path / "other", "plain"), Site(tmp_path / "site"), "1" * 32
    site.open()
    # Something in the way, where the copying ends.
    (site.path / f"records/.{key}.spdx.json.{os.getpid()}.part").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        site.join(other)
    assert site.image(key).exists()
    assert not site.has(key)
