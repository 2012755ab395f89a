"""Writes the pages of a site from its collections and records: HTML, search index, feeds, badges.

Everything shown comes from outside; the templates escape all of it (jinja2's autoescape), and what
scripts read is JSON. Pages depend on the site's stores alone, so two machines write the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from singbuild import workspace
from singbuild.hub import collection, contents, drawings, feeds
from singbuild.hub.catalogue import Catalogue, summarise
from singbuild.hub.collection import Build, Collection
from singbuild.hub.image_pages import ImagePages, bits
from singbuild.hub.site import Site
from singbuild.hub.writer import Writer

ASSETS = ("hub.css", "hub.js", "compare.js", "icon.svg")
_LARGEST_MAP = 40  # images in a table of similarities
_SHOWN_COMMITS = 100
_SHOWN_TAGS = 12  # that a commit changed
_SHOWN_FILES = 200  # without an image
_ROWS = 300  # of images or collections on a page
_WIDTH = 1130  # pixels of a treemap on a screen


def write(site: Site, names: Iterable[str], url: str = "") -> None:
    """Write the pages of some collections, and of the site. url: of the site, where known."""
    for name in ASSETS:
        text = resources.files("singbuild.hub").joinpath("assets", name).read_text()
        site.write(f"assets/{name}", text)
    subjects = [collection.load(site, name) for name in names]
    for subject in subjects:
        summarise(site, subject)
    with workspace.scratch_directory() as scratch:
        catalogue = Catalogue(scratch / "catalogue", site)
        writer = Writer(site, url.rstrip("/"))
        for subject in subjects:
            _write_collection(writer, subject, catalogue)
        _write_site(writer, catalogue)
        catalogue.close()


def _write_site(writer: Writer, catalogue: Catalogue) -> None:
    """Write the list of collections, the page that compares images, and the search index."""
    rows = catalogue.collections
    writer.parts(
        "index",
        "site.html",
        [("Images", "")],
        rows,
        _ROWS,
        collections=len(rows),
        images=sum(row["built"] for row in rows),
        size=sum(row["size"] for row in rows),
    )
    writer.page("compare.html", "compare.html", [("Images", "index.html"), ("Compare", "")])
    site = writer.site
    site.write("collections.json", json.dumps({"version": 1, "collections": rows}, indent=1))
    names = set()
    for shard, values in catalogue.shards():
        names.add(f"{shard}.js")
        site.write(f"search/{shard}.js", feeds.script(f"search/{shard}", values))
    for path in (site.path / "search").glob("*.js"):
        if path.name not in names:
            path.unlink()


def _write_collection(writer: Writer, subject: Collection, catalogue: Catalogue) -> None:
    """Write a collection and all of its images."""
    newest = subject.commits[-1]
    images = ImagePages(writer, subject, catalogue)
    sketches: dict[str, list[str]] = {}
    rows = []
    for tag, build in newest.builds.items():
        record = images.write(tag)
        rows.append(_row(subject, tag, build, record))
        if record["status"] == "built" and len(sketches) <= _LARGEST_MAP:
            sketches[tag] = record["sketch"]
    built = [row for row in rows if row["status"] == "built"]
    areas = [
        drawings.Area(row["tag"], row["size"], f"{row['tag']}/index.html", number % drawings.HUES)
        for number, row in enumerate(built)
    ]
    commits: list[dict[str, Any]] = []
    before: Mapping[str, Build] = {}
    for each in subject.commits:
        changed = [tag for tag, build in each.builds.items() if before.get(tag) != build]
        commits.append({"id": each.id, "time": each.time, "subject": each.subject})
        commits[-1]["changed"] = changed
        before = each.builds
    writer.parts(
        f"{subject.name}/index",
        "collection.html",
        [("Images", "../../index.html"), (subject.name, "")],
        rows,
        _ROWS,
        name=subject.name,
        source=subject.source if subject.source.startswith(("http://", "https://")) else "",
        commit=newest,
        tags=newest.builds.keys(),
        left_out=newest.left_out,
        built=len(built),
        size=sum(row["size"] for row in built),
        treemap=drawings.treemap(areas, "Sizes of the images", _WIDTH) if len(areas) > 1 else "",
        map=_map(sketches),
        commits=commits[: -_SHOWN_COMMITS - 1 : -1],
        earlier=max(0, len(commits) - _SHOWN_COMMITS),
        most_files=_SHOWN_FILES,
        most_tags=_SHOWN_TAGS,
    )
    site = writer.site
    site.write(f"{subject.name}/badge.svg", drawings.badge(len(built), len(rows)))
    site.write(f"{subject.name}/sizes.csv", feeds.sizes(rows))
    site.write(f"{subject.name}/feed.xml", feeds.atom(subject, writer.url))
    keys = feeds.script(f"{subject.name}/keys", feeds.keys(subject))
    site.write(f"{subject.name}/keys.js", keys)


def _row(subject: Collection, tag: str, build: Build, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tag": tag,
        "path": build.path,
        "status": record["status"],
        "system": record.get("shown", {}).get("system"),
        "size": record.get("image", {}).get("size", 0),
        "bits": bits(record),
        "since": subject.since(tag, build.key),
    }


def _map(sketches: Mapping[str, Sequence[str]]) -> list[tuple[str, list[int]]]:
    """Return the table of similarities in per cent; [] where there are too few, or too many."""
    if not 1 < len(sketches) <= _LARGEST_MAP:
        return []
    share = contents.similarity
    return [
        (tag, [round(100 * share(own, other)) for other in sketches.values()])
        for tag, own in sketches.items()
    ]
