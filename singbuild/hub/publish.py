"""From a commit to a site: what is new is built, and the pages are written from what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild import workspace
from singbuild.errors import UsageError
from singbuild.hub import collection, jobs, pages, registry, work
from singbuild.hub.repository import Commit, Repository
from singbuild.hub.site import Site, dumped
from singbuild.hub.work import Settings, Survey, Unit

_WHOLE = 40  # digits of a commit's id


@dataclass(frozen=True)
class Outcome:
    """What became of a commit, by tags."""

    commit: Commit
    built: Sequence[str]
    before: Sequence[str]
    failed: Sequence[str]


@contextmanager
def surveyed(repository: Repository, at: str, settings: Settings) -> Iterator[tuple[Survey, Path]]:
    """Yield what a commit holds, and a checkout of it. at: its id, a branch or a tag.

    What is named by its whole id and is there is not fetched: many jobs need one fetch.
    Raises SourceError, UsageError.
    """
    commit = _known(repository, at) if len(at) == _WHOLE else None
    if commit is None:
        repository.fetch()
        commit = repository.commit(at)
    with workspace.scratch_directory() as scratch:
        checkout = scratch / "checkout"
        checkout.mkdir()
        yield work.survey(repository, commit, checkout, settings), checkout


def _known(repository: Repository, at: str) -> Commit | None:
    try:
        return repository.commit(at)
    except UsageError:
        return None


def build(
    site: Site,
    survey: Survey,
    units: Sequence[Unit],
    options: Sequence[str],
    *,
    source: str,
    at_once: int,
    submit: str,
) -> Outcome:
    """Build the units that the site does not have, a process each.

    options: what ``hub image`` gets of ours; submit: see ``jobs.run``.
    """
    new = [unit for unit in units if not site.has(unit.key)]
    where = ["--at", survey.commit.id, *options, "--", source]
    words = {unit.tag: jobs.command("image", *where, unit.tag, str(site.path)) for unit in new}
    jobs.run(new, words, at_once=at_once, submit=submit)
    failed = [unit.tag for unit in units if not site.has(unit.key)]
    built = [unit.tag for unit in new if unit.tag not in failed]
    before = [unit.tag for unit in units if unit not in new]
    return Outcome(survey.commit, built, before, failed)


def write(site: Site, name: str, source: str, survey: Survey, url: str) -> None:
    """Bring a collection and the site's pages up to date. source: as the user named it."""
    with site.held():
        url = _remembered(site, url)
        after = collection.add(site, name, source, survey)
        registry.write(site, after, url)
        registry.write_service(site, site.collections())
        pages.write(site, [name], url)


def _remembered(site: Site, url: str) -> str:
    """Return the site's URL, without a slash at its end; keep it if it is new."""
    known = site.load("hub.json")
    chosen = (url or str(known.get("url", ""))).rstrip("/")
    if chosen != known.get("url", ""):
        site.write("hub.json", dumped({**known, "url": chosen}))
    return chosen


def matrix(units: Sequence[Unit], form: str) -> Any:
    """Return the jobs of a pipeline that build some units. form: github or gitlab."""
    if form == "github":
        return {"include": [{"tag": unit.tag, "recipe": unit.path} for unit in units]}
    return [{"TAG": unit.tag} for unit in units]


def newest_keys(site: Site, keep: int) -> set[str]:
    """Return the keys of the newest builds of all tags, ``keep`` of each."""
    keys: set[str] = set()
    for name in site.collections():
        each = collection.load(site, name)
        for tag in _tags(each.commits):
            keys.update(build.key for _, build in each.steps(tag)[:keep])
    return keys


def _tags(commits: Iterable[collection.Entry]) -> set[str]:
    return {tag for entry in commits for tag in entry.builds}
