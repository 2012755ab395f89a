"""Writes the pages of a site from its collections and records: HTML, search index, feeds, badges.

Everything shown comes from outside; the templates escape all of it (jinja2's autoescape), and what
scripts read is JSON. Pages depend on the site's stores alone, so two machines write the same.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from xml.sax.saxutils import escape

import jinja2
from markupsafe import Markup

from singbuild.console.events import printable
from singbuild.console.sizes import binary
from singbuild.hub import collection, contents, drawings, file_pages
from singbuild.hub.collection import Build, Collection, Entry
from singbuild.hub.site import Site

ASSETS = ("hub.css", "hub.js")
SHOWN_LINES = 2000  # of a log
NEIGHBOURS = 5
_LARGEST_MAP = 40  # images in a table of similarities
_LARGEST_CHANGE = 400  # lines of a recipe's change
_SEARCHED_FILES = ("bin", "sbin")  # directories whose files the search knows by their names


def write(site: Site, names: Iterable[str], url: str = "") -> None:
    """Write the pages of some collections, and of the site. url: of the site, where known."""
    writer = _Writer(site, url.rstrip("/"))
    for name in ASSETS:
        text = resources.files("singbuild.hub").joinpath("assets", name).read_text()
        site.write(f"assets/{name}", text)
    for name in names:
        writer.collection(collection.load(site, name))
    writer.site_pages()


class _Writer:
    """Writes one site."""

    def __init__(self, site: Site, url: str) -> None:
        self.site, self.url = site, url
        self.all = [collection.load(site, name) for name in site.collections()]
        self.records: dict[str, dict[str, Any]] = {}
        self.latest = {
            (each.name, tag): build
            for each in self.all
            if each.commits
            for tag, build in each.commits[-1].builds.items()
        }
        self.labels = Counter(
            label
            for build in self.latest.values()
            for label in self.record(build).get("shown", {}).get("labels", {})
        )
        self.sketches = {
            place: record["sketch"]
            for place, build in self.latest.items()
            if (record := self.record(build))["status"] == "built"
        }
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("singbuild.hub"),
            autoescape=True,
            finalize=_without_controls,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {"binary": binary, "day": _day, "moment": _moment}
        self.templates = environment

    def record(self, build: Build) -> dict[str, Any]:
        """Return a build's record without what only its own pages need."""
        if build.key not in self.records:
            record = self.site.record(build.key)
            shown = record.get("shown", {})
            needed = {"labels": shown.get("labels", {}), "system": shown.get("system")}
            self.records[build.key] = {**record, "shown": needed}
        return self.records[build.key]

    def page(
        self, place: str, template: str, trail: Sequence[tuple[str, str]], **values: Any
    ) -> None:
        """Write one page. trail: what stands above it, each with a link; the last is itself."""
        root = "../" * place.count("/")
        text = self.templates.get_template(template).render(
            root=root, trail=trail, url=self.url, host=self.url.partition("://")[2], **values
        )
        self.site.write(place, text)

    def site_pages(self) -> None:
        """Write the list of collections and the search index."""
        rows = []
        for each in filter(lambda each: each.commits, self.all):
            records = [self.record(build) for build in each.commits[-1].builds.values()]
            built = [record for record in records if record["status"] == "built"]
            rows.append(
                {
                    "name": each.name,
                    "built": len(built),
                    "failed": len(records) - len(built),
                    "size": sum(record["image"]["size"] for record in built),
                    "time": each.commits[-1].time,
                }
            )
        total = sum(row["built"] for row in rows), sum(row["size"] for row in rows)
        self.page(
            "index.html",
            "site.html",
            [("Images", "")],
            collections=rows,
            images=total[0],
            size=total[1],
        )
        self.site.write(
            "collections.json", json.dumps({"version": 1, "collections": rows}, indent=1)
        )
        self._search()

    def collection(self, subject: Collection) -> None:
        """Write a collection and all of its images."""
        newest = subject.commits[-1]
        rows = [self._row(subject, tag, build) for tag, build in newest.builds.items()]
        built = sum(row["status"] == "built" for row in rows)
        before: Mapping[str, Build] = {}
        commits = []
        for each in subject.commits:
            changed = [tag for tag, build in each.builds.items() if before.get(tag) != build]
            commits.append(vars(each) | {"changed": changed})
            before = each.builds
        self.page(
            f"{subject.name}/index.html",
            "collection.html",
            [("Images", "../../index.html"), (subject.name, "")],
            name=subject.name,
            source=subject.source if subject.source.startswith(("http://", "https://")) else "",
            commit=newest,
            rows=rows,
            left_out=newest.left_out,
            built=built,
            map=self._map([(subject.name, tag) for tag in newest.builds]),
            commits=commits[::-1],
        )
        self.site.write(f"{subject.name}/badge.svg", drawings.badge(built, len(rows)))
        self.site.write(f"{subject.name}/sizes.csv", _sizes(rows))
        self.site.write(f"{subject.name}/feed.xml", _feed(subject, self.url))
        for tag, build in newest.builds.items():
            self._image(subject, tag, build)

    def _row(self, subject: Collection, tag: str, build: Build) -> dict[str, Any]:
        record = self.record(build)
        return {
            "tag": tag,
            "path": build.path,
            "status": record["status"],
            "system": record["shown"]["system"],
            "size": record.get("image", {}).get("size", 0),
            "bits": _bits(record),
            "since": subject.since(tag, build.key),
        }

    def _image(self, subject: Collection, tag: str, build: Build) -> None:
        """Write the pages of one image."""
        base = f"{subject.name}/{tag}"
        record = self.site.record(build.key)
        shown = record.get("shown", {})
        above = [("Images", "../../../index.html"), (subject.name, "../index.html")]
        steps = subject.steps(tag)
        common: dict[str, Any] = {"name": subject.name, "tag": tag, "shown": shown}
        root = file_pages.tree(self.site.files(build.key))
        pages = list(file_pages.pages(root))
        here = [*above, (tag, "")]
        self.page(
            f"{base}/index.html",
            "image.html",
            here,
            **common,
            record=record,
            since=subject.since(tag, build.key),
            bits=_bits(record),
            label_counts=self.labels,
            treemap=_treemap(root, tag),
            neighbours=self._neighbours(subject.name, tag),
            recipe_change=self._recipe_change(steps),
        )
        above.append((tag, "index.html"))
        run = self.site.run(build.key)
        lines = run.get("log", [])
        self.page(
            f"{base}/log.html",
            "log.html",
            [*above, ("Log", "")],
            **common,
            key=build.key,
            run=run,
            lines=lines[-SHOWN_LINES:],
            cut=max(0, len(lines) - SHOWN_LINES),
        )
        history = list(self._history(steps))
        self.page(
            f"{base}/history.html",
            "history.html",
            [*above, ("History", "")],
            **common,
            steps=history,
        )
        if record["status"] == "built":
            self.page(
                f"{base}/packages.html", "packages.html", [*above, ("Packages", "")], **common
            )
            for name, top in pages:
                trail = [(text, link and f"../{link}") for text, link in above]
                trail += (
                    [("Files", "index.html"), (top.path, "")]
                    if top.path != "/"
                    else [("Files", "")]
                )
                self.page(f"{base}/files/{name}", "files.html", trail, **common, top=top)

    def _history(self, steps: Sequence[tuple[Entry, Build]]) -> Iterator[dict[str, Any]]:
        """Yield what each build of a tag changed, the newest first."""
        builds = [build for _, build in steps]
        for (entry, build), before in zip(steps, [*builds[1:], None], strict=True):
            record = self.record(build)
            difference = None
            if before and {record["status"], self.record(before)["status"]} == {"built"}:
                pair = self.site.files(before.key), self.site.files(build.key)
                difference = contents.difference(*pair)
            yield {
                "commit": entry,
                "key": build.key,
                "status": record["status"],
                "image": record.get("image"),
                "difference": difference,
            }

    def _recipe_change(self, steps: Sequence[tuple[Entry, Build]]) -> list[str]:
        """Return how the recipe's text differs from that of the build before: a unified diff."""
        if len(steps) < 2:
            return []
        now, was = (self.record(build)["source"].splitlines() for _, build in steps[:2])
        return [*difflib.unified_diff(was, now, "before", "now", lineterm="")][:_LARGEST_CHANGE]

    def _neighbours(self, name: str, tag: str) -> list[dict[str, Any]]:
        own = self.sketches.get((name, tag))
        if not own:
            return []
        others = (
            (place, sketch) for place, sketch in self.sketches.items() if place != (name, tag)
        )
        shares = sorted((-contents.similarity(own, sketch), place) for place, sketch in others)
        return [
            {"name": place[0], "tag": place[1], "percent": round(-share * 100)}
            for share, place in shares[:NEIGHBOURS]
            if share < 0
        ]

    def _map(self, places: Sequence[tuple[str, str]]) -> list[tuple[str, list[int]]]:
        """Return the table of similarities in per cent; [] where there are too few, or too many."""
        known = [place for place in places if place in self.sketches]
        if not 1 < len(known) <= _LARGEST_MAP:
            return []
        share = contents.similarity
        return [
            (
                one[1],
                [round(100 * share(self.sketches[one], self.sketches[each])) for each in known],
            )
            for one in known
        ]

    def _search(self) -> None:
        """Write the index of words: a script for each beginning of two letters."""
        words: dict[str, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))

        def enter(word: str, page: str, what: str) -> None:
            small = word.lower()
            if len(small) > 1:
                words[_shard(small)][small].add((page, what))

        for (name, tag), build in self.latest.items():
            place, page = f"{name}:{tag}", f"{name}/{tag}/index.html"
            for part in {tag, *name.split("/")}:
                enter(part, page, f"image {place}")
            record = self.site.record(build.key)
            shown = record.get("shown", {})
            for label, value in shown.get("labels", {}).items():
                enter(f"{label}={value}"[:100], f"{page}#labels", f"label, {place}")
            for package in shown.get("packages", []):
                enter(package["name"], f"{name}/{tag}/packages.html", f"package, {place}")
            for file in self.site.files(build.key):
                parts = file.path.split("/")
                if file.kind in "fl" and parts[-2:-1] and parts[-2] in _SEARCHED_FILES:
                    enter(parts[-1], f"{name}/{tag}/files/index.html", f"program, {place}")
        for shard, entries in words.items():
            text = json.dumps({word: sorted(pages) for word, pages in sorted(entries.items())})
            self.site.write(f"search/{shard}.js", f'hubShard("{shard}",{_as_script(text)});\n')


def _without_controls(value: Any) -> Any:
    """Return text without what has no place in a page: escape codes, control characters."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def _shard(word: str) -> str:
    return "".join(each if each.isascii() and each.isalnum() else "_" for each in word[:2])


def _as_script(text: str) -> str:
    """Return JSON so that it cannot end the element of a script that it might stand in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _bits(record: Mapping[str, Any]) -> str:
    verdict = record.get("reproducible")
    if verdict is None:
        return "built once" if record["status"] == "built" else ""
    if verdict["same"]:
        return "yes, built twice"
    return f"no, {len(verdict['paths'])} paths differ"


def _treemap(root: file_pages.Node, tag: str) -> Any:
    """Draw the directories of the first two levels by their sizes."""
    areas = []
    for top in root.by_name.values():
        link = f"files/{top.page}" if top.page else "files/index.html"
        inner = [each for each in top.by_name.values() if each.kind == "d"]
        for each in inner:
            areas.append(
                drawings.Area(each.path, each.size, f"files/{each.page}" if each.page else link)
            )
        if rest := top.size - sum(each.size for each in inner):
            areas.append(drawings.Area(top.path, rest, link))
    return drawings.treemap(areas, f"Sizes of the directories of {tag}")


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["tag", "bytes"])
    lines.writerows([row["tag"], row["size"]] for row in rows)
    return text.getvalue()


def _feed(subject: Collection, url: str) -> str:
    """Return the newest commits as an Atom feed (RFC 4287)."""
    base = f"{url or 'urn:singbuild'}/{subject.name}"
    entries = [
        f"<entry><id>{escape(base)}/{each.id}</id><title>{escape(printable(each.subject))}</title>"
        f"<updated>{_moment(each.time)}</updated>"
        f'<link href="index.html"/><summary>{escape(", ".join(each.builds))}</summary></entry>'
        for each in subject.commits[::-1][:50]
    ]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{escape(base)}</id><title>{escape(subject.name)}</title>"
        f"<author><name>{escape(subject.name)}</name></author>"
        f"<updated>{_moment(subject.commits[-1].time)}</updated>{''.join(entries)}</feed>\n"
    )


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
