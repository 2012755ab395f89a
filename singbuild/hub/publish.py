"""From a commit to a site: what is new is built, and the pages are written from what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild import workspace
from singbuild.errors import UsageError
from singbuild.hub import collection, jobs, pages, registry, shpc, slurm, work
from singbuild.hub.repository import Commit, Repository
from singbuild.hub.site import Site, dumped
from singbuild.hub.work import Settings, Survey, Unit

_WHOLE = 40  # digits of a commit's id


@dataclass(frozen=True)
class Outcome:
    """The tags of a commit: built now, built before, and without an image."""

    commit: Commit
    built: Sequence[str]
    before: Sequence[str]
    failed: Sequence[str]


@dataclass(frozen=True)
class Elsewhere:
    """Where builds run, if not here. submit: see ``jobs.run``; slurm: as arrays of jobs."""

    submit: str = ""
    slurm: bool = False


@contextmanager
def surveyed(repository: Repository, at: str, settings: Settings) -> Iterator[tuple[Survey, Path]]:
    """Yield what a commit holds, and a checkout of it. at: its id, a branch or a tag.

    What is named by its whole id and is there is not fetched: many jobs need one fetch.
    Raises SourceError, UsageError.
    """
    commit = _commit_or_none(repository, at) if len(at) == _WHOLE else None
    if commit is None:
        repository.fetch()
        commit = repository.commit(at)
    with workspace.scratch_directory() as scratch:
        checkout = scratch / "checkout"
        checkout.mkdir()
        yield work.survey(repository, commit, checkout, settings), checkout


def _commit_or_none(repository: Repository, at: str) -> Commit | None:
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
    elsewhere: Elsewhere,
    report: Callable[[str], None],
) -> Outcome:
    """Build the units that the site does not have, a process each.

    options: what ``hub image`` gets of ours; report: gets lines for people. Raises HostError when
    nothing can be built at all.
    """
    queue = slurm.Queue(site.path / ".jobs", survey.commit.id, report) if elsewhere.slurm else None
    if queue and queue.wait():
        report("Slurm: an earlier run's jobs have ended")
    new = [unit for unit in units if not site.has(unit.key)]
    where = ["--at", survey.commit.id, *options, "--", source]
    words = {unit.tag: jobs.command("image", *where, unit.tag, str(site.path)) for unit in new}
    if queue and new:
        queue.run(new, words, at_once=at_once)
    elif new:
        if not elsewhere.submit:
            work.check_host()
        jobs.run(new, words, at_once=at_once, submit=elsewhere.submit)
    failed = [unit.tag for unit in units if not site.has(unit.key)]
    for unit in new:
        if not site.record(unit.key):
            report(f"{unit.tag}: its process ended without a result")
    if queue:
        queue.clean(is_sound=all(site.record(unit.key) for unit in new))
    built = [unit.tag for unit in new if unit.tag not in failed]
    before = [unit.tag for unit in units if unit not in new]
    return Outcome(survey.commit, built, before, failed)


def write(site: Site, name: str, source: str, survey: Survey, url: str) -> None:
    """Bring a collection and the site's pages up to date. source: as the user named it."""
    with site.held():
        collection.add(site, name, source, survey)
        rewrite(site, [name], url)


def rewrite(site: Site, names: Iterable[str], url: str = "") -> None:
    """Write anew what is there of some collections, and of the site. The site is held."""
    names = [*names]
    url = _remembered(site, url)
    for name in names:
        subject = collection.load(site, name)
        registry.write(site, subject, url)
        shpc.write(site, subject, url)
    registry.write_service(site, site.collections(), url)
    shpc.write_library(site, site.collections())
    pages.write(site, names, url)


def prune(site: Site, keep: int, *, dry_run: bool) -> dict[str, int]:
    """Remove images that only older builds of a tag have; return their sizes by key.

    keep: builds of each tag that stay.
    """
    with site.held():
        removed = site.prune(_newest_keys(site, keep), dry_run=dry_run)
        if removed and not dry_run:
            rewrite(site, site.collections())
    return removed


def _remembered(site: Site, url: str) -> str:
    """Return the site's URL, without a slash at its end; keep it if it is new."""
    content = site.load("hub.json")
    address = (url or str(content.get("url", ""))).rstrip("/")
    if address != content.get("url", ""):
        site.write("hub.json", dumped({**content, "url": address}))
    return address


def matrix(units: Sequence[Unit], form: str) -> Any:
    """Return the jobs of a pipeline that build some units. form: github or gitlab."""
    if form == "github":
        return {"include": [{"tag": unit.tag, "recipe": unit.path} for unit in units]}
    return [{"TAG": unit.tag} for unit in units]


def _newest_keys(site: Site, keep: int) -> set[str]:
    """Return the keys of the newest builds of all tags, ``keep`` of each."""
    keys: set[str] = set()
    for name in site.collections():
        each = collection.load(site, name)
        for tag in _tags(each.commits):
            keys.update(build.key for _, build in each.steps(tag)[:keep])
    return keys


def _tags(commits: Iterable[collection.Entry]) -> set[str]:
    return {tag for entry in commits for tag in entry.builds}
