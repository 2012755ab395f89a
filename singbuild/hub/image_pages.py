"""The pages of one image: what it is, its files, packages, history and log; of older builds too.

A page of files or of an older build depends on its record alone, and is not written again while
that and the templates stay the same.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from singbuild.hub import contents, drawings, feeds, file_pages, listings
from singbuild.hub.catalogue import Catalogue
from singbuild.hub.collection import Build, Collection, Entry
from singbuild.hub.writer import Writer

SHOWN_LINES = 2000  # of a log
NEIGHBOURS = 5
_LARGEST_CHANGE = 400  # lines of a recipe's change
_COMPARED = 1000  # lines of a recipe: difflib's time grows with their square, and more
_WIDTH = 790  # pixels of a treemap on a screen
_PACKAGES = 1000  # of a page
_OLDER = 20  # builds of a tag that have pages
_PLACES = (
    ("Overview", "index.html"),
    ("Files", "files/index.html"),
    ("Packages", "packages.html"),
    ("History", "history.html"),
    ("Log", "log.html"),
)


class ImagePages:
    """Writes the pages of a collection's images."""

    def __init__(self, writer: Writer, subject: Collection, catalogue: Catalogue) -> None:
        self.writer, self.subject, self.catalogue = writer, subject, catalogue
        self.site = writer.site
        self._pushed = self.site.load(f"{subject.name}/pushed.json").get("images", {})

    def write(self, tag: str) -> dict[str, Any]:
        """Write the pages of the newest build of a tag, and of older ones; return its record."""
        steps = self.subject.steps(tag)
        (entry, build), older = steps[0], steps[1 : _OLDER + 1]
        base = f"{self.subject.name}/{tag}"
        record = self.site.record(build.key)
        self._history(base, tag, steps[: _OLDER + 1])
        self._build(base, tag, entry, build, record, is_newest=True, change=_change(self, steps))
        for old_entry, old in older:
            place = f"{base}/{feeds.short(old_entry.id)}"
            facts = (self._has_image(old), bool(self.site.run(old.key)), self.site.signers(old.key))
            state = self.writer.state(place, old.key, *facts)
            if not self.writer.is_current(f"{place}/index.html", state):
                old_record = self.site.record(old.key)
                self._build(place, tag, old_entry, old, old_record, is_newest=False, state=state)
        return record

    def _build(
        self,
        base: str,
        tag: str,
        entry: Entry,
        build: Build,
        record: Mapping[str, Any],
        *,
        is_newest: bool,
        change: Sequence[str] = (),
        state: str = "",
    ) -> None:
        """Write the pages of one build below ``base``; the page with its state is the last."""
        name, facts = self.subject.name, record.get("shown", {})
        is_built = record["status"] == "built"
        inner = ("files/index.html", "packages.html") * is_built + ("index.html", "log.html")
        own = [
            (title, link if is_newest or link != "history.html" else f"../{link}")
            for title, link in _PLACES
            if link in inner or link == "history.html"
        ]
        up = "" if is_newest else "../"
        trail = [("Images", f"{up}../../../index.html"), (name, f"{up}../index.html")]
        if not is_newest:
            trail.append((tag, "../index.html"))
        here = tag if is_newest else feeds.short(entry.id)
        common: dict[str, Any] = {
            "name": name,
            "tag": tag,
            "shown": facts,
            "older": None if is_newest else entry,
            "above": "",
            "places": own,
        }
        below = [*trail, (here, "index.html")]
        self._log(f"{base}/log.html", build, [*below, ("Log", "")], common)
        pushed = self._pushed.get(tag, {})
        areas: Sequence[drawings.Area] = ()
        if is_built:
            self._packages(base, below, common)
            areas = self._files(base, build, below, common)
        self.writer.page(
            f"{base}/index.html",
            "image.html",
            [*trail, (here, "")],
            state,
            **common,
            record={"provenance": False, **record},
            has_image=self._has_image(build),
            signers=self.site.signers(build.key) if self._has_image(build) else [],
            pushed=pushed["uri"] if pushed.get("key") == build.key else "",
            since=self.subject.since(tag, build.key) if is_newest else entry,
            bits=bits(record),
            bits_class=_class_of(record),
            licences=_licences(record),
            label_counts=self.catalogue.others(facts.get("labels", {})) if is_newest else {},
            neighbours=self.catalogue.neighbours(name, tag, NEIGHBOURS) if is_newest else [],
            treemap=drawings.treemap(areas, f"Sizes of the directories of {tag}", _WIDTH),
            recipe_change=change,
        )

    def _packages(
        self, base: str, below: Sequence[tuple[str, str]], common: Mapping[str, Any]
    ) -> None:
        """Write the list of packages, as many pages as it takes."""
        packages = common["shown"]["packages"]
        trail = [*below, ("Packages", "")]
        self.writer.parts(f"{base}/packages", "packages.html", trail, packages, _PACKAGES, **common)

    def _has_image(self, build: Build) -> bool:
        return self.site.image(build.key).exists()

    def _files(
        self,
        base: str,
        build: Build,
        below: Sequence[tuple[str, str]],
        common: Mapping[str, Any],
    ) -> list[drawings.Area]:
        """Write the pages of the tree unless they are current; return what a treemap shows.

        The first page is written last, and has their state.
        """
        state = self.writer.state(base, build.key)
        store = f"{base}/files/areas.json"
        if self.writer.is_current(f"{base}/files/index.html", state):
            return [drawings.Area(*each) for each in self.site.load(store).get("areas", [])]
        root = file_pages.tree(self.site.files(build.key))
        pages = list(file_pages.pages(root))
        areas = file_pages.areas(root)
        self.site.write(store, json.dumps({"areas": areas}))
        context = {**common, "above": "../"}
        above = [(text, f"../{link}") for text, link in below]
        for page in reversed(pages):
            path = page.top.path
            own = [("Files", "")] if path == "/" else [("Files", "index.html"), (path, "")]
            place = f"{base}/files/{page.name}"
            entries = listings.listing(page)
            values = {**context, "page": page, "listing": entries}
            self.writer.page(place, "files.html", [*above, *own], state, **values)
        return areas

    def _log(
        self,
        place: str,
        build: Build,
        trail: Sequence[tuple[str, str]],
        common: Mapping[str, Any],
    ) -> None:
        run = self.site.run(build.key)
        lines = run.get("log", [])
        self.writer.page(
            place,
            "log.html",
            trail,
            **common,
            key=build.key,
            run=run,
            parts=list(_parts(lines[-SHOWN_LINES:], run.get("steps", []))),
            cut=max(0, len(lines) - SHOWN_LINES),
        )

    def _history(self, base: str, tag: str, steps: Sequence[tuple[Entry, Build]]) -> None:
        """Write what each build of a tag changed, the newest first."""
        name = self.subject.name
        rows = []
        for (entry, build), before in zip(steps, [*steps[1:], None], strict=True):
            record = self.site.record(build.key)
            short = feeds.short(entry.id)
            difference, compared = None, ""
            if before and {record["status"], self.site.record(before[1].key)["status"]} == {
                "built"
            }:
                pair = self.site.files(before[1].key), self.site.files(build.key)
                difference = contents.difference(*pair)
                compared = f"{name}:{tag}@{feeds.short(before[0].id)}..{name}:{tag}@{short}"
            rows.append(
                {
                    "commit": entry,
                    "key": build.key,
                    "status": record["status"],
                    "image": record.get("image"),
                    "difference": difference,
                    "compared": compared,
                    "link": "index.html" if build is steps[0][1] else f"{short}/index.html",
                }
            )
        is_built = rows[0]["status"] == "built"
        places = [each for each in _PLACES if is_built or each[0] not in ("Files", "Packages")]
        trail = [("Images", "../../../index.html"), (name, "../index.html"), (tag, "index.html")]
        self.writer.page(
            f"{base}/history.html",
            "history.html",
            [*trail, ("History", "")],
            name=name,
            tag=tag,
            older=None,
            above="",
            places=places,
            steps=rows,
        )


def bits(record: Mapping[str, Any]) -> str:
    """Say whether two builds gave the same bytes; "" where there is none."""
    verdict = record.get("reproducible")
    if verdict is None:
        return "built once" if record["status"] == "built" else ""
    if verdict["same"]:
        return "built twice, the same bits"
    return f"built twice, {len(verdict['paths'])} paths differ"


def _class_of(record: Mapping[str, Any]) -> str:
    verdict = record.get("reproducible")
    return "" if verdict is None else "good" if verdict["same"] else "note"


def _licences(record: Mapping[str, Any]) -> list[str]:
    """Return the licences of an image's packages, those of most packages first."""
    counts = record.get("licences", {})
    return [f"{name} ({counts[name]})" for name in sorted(counts, key=lambda n: (-counts[n], n))]


def _change(pages: ImagePages, steps: Sequence[tuple[Entry, Build]]) -> list[str]:
    """Return how the recipe's text differs from that of the build before: a unified diff.

    Of long texts it is [].
    """
    if len(steps) < 2:
        return []
    now, was = (pages.site.record(build.key)["source"].splitlines() for _, build in steps[:2])
    if max(len(was), len(now)) > _COMPARED:
        return []
    return [*difflib.unified_diff(was, now, "before", "now", lineterm="")][:_LARGEST_CHANGE]


def _parts(lines: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Divide a log at its steps, which ``work`` marks by lines that begin with ==."""
    marks = sum(line.startswith("== ") for line in lines)
    times = iter(steps[max(0, len(steps) - marks) :])
    part: dict[str, Any] = {"title": "Before the first step", "seconds": None, "lines": []}
    for line in lines:
        if line.startswith("== "):
            if part["lines"] or part["seconds"] is not None:
                yield part
            step = next(times, {"seconds": None})
            part = {"title": line[3:], "seconds": step["seconds"], "lines": []}
        else:
            part["lines"].append(line)
    if part["lines"] or part["seconds"] is not None:
        yield part
