"""A collection: what each commit of a repository gave, as ``collection.json`` keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild.download.errors import public_url
from singbuild.errors import UsageError
from singbuild.hub.site import Site, dumped
from singbuild.hub.work import Survey

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = (
    "assets",
    "images",
    "records",
    "runs",
    "search",
    "signatures",
    "shpc",
    "api",
    "v1",
    "ga4gh",
)
"""Directories of a site that no owner may have as a name."""


@dataclass(frozen=True)
class Build:
    """What one tag had at one commit. key: of its record."""

    path: str
    key: str
    status: str


@dataclass(frozen=True)
class Entry:
    """One commit that was built. builds: by tag; left_out: paths, and why they have no page."""

    id: str
    time: int
    subject: str
    builds: Mapping[str, Build]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Collection:
    """All commits that were built, the oldest first.

    source: a URL without a password, "" for a path.
    """

    name: str
    source: str
    commits: tuple[Entry, ...]

    def since(self, tag: str, key: str) -> Entry:
        """Return the commit from which on a tag has had this key, up to the newest."""
        first = self.commits[-1]
        for each in reversed(self.commits):
            if tag not in each.builds or each.builds[tag].key != key:
                break
            first = each
        return first

    def steps(self, tag: str) -> list[tuple[Entry, Build]]:
        """Return the commits that gave a tag another build, the newest first."""
        steps: list[tuple[Entry, Build]] = []
        last = ""
        for each in self.commits:
            if (build := each.builds.get(tag)) and build.key != last:
                steps.append((each, build))
                last = build.key
        return steps[::-1]


def name_of(source: str) -> str:
    """Return the collection's name that a repository's path or URL gives: its last two parts.

    Raises UsageError when they are no name.
    """
    source = public_url(source)
    words = re.split("[/:]", source.rstrip("/").removesuffix(".git").removesuffix("/"))
    return check_name("/".join(words[-2:]), source)


def check_name(name: str, source: str = "") -> str:
    """Return a collection's name. Raises UsageError for one that is none, or would hide a page."""
    if not NAME.fullmatch(name) or name.split("/")[0] in RESERVED:
        raise UsageError(
            f"{name!r} is no name of a collection{f', as {source} would give it' * bool(source)}",
            why="It is OWNER/NAME, of letters, digits, dots, hyphens and underscores.",
            remedy="Name it: --name OWNER/NAME",
        )
    return name


def load(site: Site, name: str) -> Collection:
    """Return a collection; one without commits when the site has none of that name."""
    values = site.load(f"{name}/collection.json")
    commits = tuple(
        Entry(
            each["id"],
            each["time"],
            each["subject"],
            {tag: Build(**build) for tag, build in each["builds"].items()},
            each["left_out"],
        )
        for each in values.get("commits", [])
    )
    return Collection(name, public_url(values.get("source", "")), commits)


def add(site: Site, name: str, source: str, survey: Survey) -> Collection:
    """Add what a commit gave to its collection, or bring it up to date."""
    previous = load(site, name)
    builds = {
        tag: Build(unit.path, unit.key, record["status"])
        for tag, unit in sorted(survey.units.items())
        if (record := site.record(unit.key))
    }
    commit = survey.commit
    entry = Entry(commit.id, commit.time, commit.subject, builds, survey.left_out)
    others = [each for each in previous.commits if each.id != commit.id]
    commits = tuple(sorted([*others, entry], key=lambda each: (each.time, each.id)))
    url = public_url(source) if not Path(source).exists() else ""
    after = Collection(name, url, commits)
    site.write(f"{name}/collection.json", dumped(_as_json(after)))
    return after


def _as_json(collection: Collection) -> dict[str, Any]:
    return {
        "version": 1,
        "name": collection.name,
        "source": collection.source,
        "commits": [
            {
                "id": each.id,
                "time": each.time,
                "subject": each.subject,
                "builds": {tag: vars(build) for tag, build in each.builds.items()},
                "left_out": dict(each.left_out),
            }
            for each in collection.commits
        ],
    }
