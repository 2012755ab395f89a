"""Builds what is new in a commit: a process for each image, which writes into the site's stores.

The same process is a job of ``hub build --jobs``, of a cluster or of a pipeline. Each knows the
whole commit, and makes the images that its own starts from unless they are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from singbuild import command, workspace
from singbuild.console.display import heartbeat
from singbuild.errors import SingbuildError
from singbuild.formats import loading
from singbuild.hub import contents, recipes, safety
from singbuild.hub.recipes import Inputs
from singbuild.hub.repository import Commit, Repository
from singbuild.hub.site import Site, dumped
from singbuild.hub.surroundings import environment
from singbuild.plan.preflight import check_programs
from singrun.errors import printable

FORMAT = "sif"  # which every client runs
LOG_LINES = 20_000  # that a page keeps of a build: its last ones


@dataclass(frozen=True)
class Settings:
    """How a hub builds. twice: a second time elsewhere, to compare; only: patterns of tags."""

    twice: bool = False
    may_run_on_host: bool = False
    only: tuple[str, ...] = ()
    arch: str = field(default_factory=lambda: os.uname().machine)


@dataclass(frozen=True)
class Unit:
    """One recipe of a commit. key: of its build; bases: image's name in the recipe -> its tag.

    error: why it cannot be built; its key then stands for that.
    """

    tag: str
    path: str
    key: str
    directory: str = "."
    locked: bool = False
    bases: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Survey:
    """What a commit holds: its units by tag, in the order of building, and files without a page."""

    commit: Commit
    units: Mapping[str, Unit]
    left_out: Mapping[str, str]


def survey(repository: Repository, commit: Commit, checkout: Path, settings: Settings) -> Survey:
    """Find the recipes of a commit and their keys. checkout: an empty directory; it is filled."""
    files = repository.files(commit)
    links = set(repository.check_out(files.values(), checkout))
    files = {path: blob for path, blob in files.items() if path not in links}
    candidates = recipes.candidates([path for path, blob in files.items() if blob.is_file])
    by_tag = {each.tag: each for each in candidates if each.tag}
    read: dict[str, Inputs] = {}
    errors: dict[str, str] = {}
    for tag, each in by_tag.items():
        try:
            if files[each.path].size > recipes.LARGEST:
                raise SingbuildError(f"{each.path} is too large for a recipe")
            recipe = recipes.load(each.path, checkout)
            read[tag] = recipes.inputs(each.path, recipe, files)
            safety.check(recipe, read[tag], may_run_on_host=settings.may_run_on_host)
        except SingbuildError as error:
            errors[tag] = str(error)
            alone = {each.path: f"{files[each.path].mode:o} {files[each.path].id}"}
            read[tag] = Inputs(".", alone, {})
    makers = recipes.makers(candidates)
    bases = {
        tag: {image: base.tag for image, base in recipes.bases(facts, makers).items()}
        for tag, facts in read.items()
    }
    order = recipes.ordered({tag: [*named_bases.values()] for tag, named_bases in bases.items()})
    units: dict[str, Unit] = {}
    for tag in order:
        path, facts = by_tag[tag].path, read[tag]
        key = facts.key(
            settings.arch,
            "twice" if settings.twice else "",
            errors.get(tag, ""),
            bases=[units[base].key for base in bases[tag].values()],
        )
        lock = path.removesuffix(".def") + ".lock.yaml"
        units[tag] = Unit(
            tag,
            path,
            key,
            facts.directory,
            lock in facts.files,
            bases[tag],
            errors.get(tag, ""),
        )
    return Survey(commit, units, {each.path: each.why_not for each in candidates if not each.tag})


def chosen(commit_survey: Survey, settings: Settings) -> list[Unit]:
    """Return the units that the settings name, in the order of building; bases come with them."""
    names = {
        tag
        for tag in commit_survey.units
        if not settings.only or any(fnmatchcase(tag, pattern) for pattern in settings.only)
    }
    for tag in reversed(list(commit_survey.units)):
        if tag in names:
            names.update(commit_survey.units[tag].bases.values())
    return [unit for tag, unit in commit_survey.units.items() if tag in names]


def check_host() -> None:
    """Refuse a host that can build no image at all. Raises HostError, with the packages."""
    check_programs(loading.find(FORMAT).format.programs)


def build(
    site: Site,
    commit_survey: Survey,
    unit: Unit,
    checkout: Path,
    settings: Settings,
    report: Callable[[str], None],
) -> bool:
    """Build one unit into the site's stores unless it is there; return whether it is.

    So with those that it starts from. report: gets a line for people. Raises HostError when
    nothing can be built at all.
    """
    tags, waiting = {unit.tag}, [unit]
    while waiting:
        each = waiting.pop()
        bases = set() if each.error or site.has(each.key) else {*each.bases.values()} - tags
        tags |= bases
        waiting += [commit_survey.units[tag] for tag in bases]
    is_there: dict[str, bool] = {}
    for tag, each in commit_survey.units.items():
        if tag in tags:
            run = _Run(site, commit_survey, each, checkout, settings)
            is_there[tag] = run.build(is_there, report)
    return is_there[unit.tag]


class _Run:
    """One run of ``singbuild build``, and what is recorded of it."""

    def __init__(
        self, site: Site, commit_survey: Survey, unit: Unit, checkout: Path, settings: Settings
    ) -> None:
        self.site, self.survey, self.unit, self.settings = site, commit_survey, unit, settings
        self.directory = checkout / unit.directory
        self.recipe = os.path.relpath(checkout / unit.path, self.directory)
        with (checkout / unit.path).open("rb") as file:
            self.source = file.read(recipes.LARGEST).decode(errors="replace")
        self.log: list[str] = []
        self.phases: list[tuple[str, float]] = []
        self.error: dict[str, Any] = {}
        self.reproducible: dict[str, Any] | None = None
        self.differences: list[str] = []
        self.began = time.time()
        self.reported = time.monotonic()

    def build(self, is_there: Mapping[str, bool], report: Callable[[str], None]) -> bool:
        """Build unless there is an image; return whether there is one now.

        is_there: by tag, of those that it starts from.
        """
        unit = self.unit
        if self.site.has(unit.key):
            report(f"{unit.tag}: as before")
            return True
        check_host()
        if unit.error:
            self._record_failure({"status": 3, "text": unit.error})
            report(f"{unit.tag}: {unit.error.splitlines()[0]}")
            return False
        for image, tag in unit.bases.items():
            if not is_there.get(tag):
                why = f"the image that it starts from, {tag}, could not be built"
                self._record_failure({"status": 8, "text": why})
                report(f"{unit.tag}: {why}")
                return False
            _place(self.site.image(self.survey.units[tag].key), self.directory / image)
        return self.execute(report)

    def execute(self, report: Callable[[str], None]) -> bool:
        """Build; return whether there is an image now."""
        self.report = report
        report(f"{self.unit.tag}: building {self.unit.path}")
        with workspace.scratch_directory() as scratch:
            image = scratch / "image.sif"
            status = self._build(image)
            if not image.exists():
                error = self.error or {"text": "\n".join(self.log[-20:])}
                error = {"status": status, "text": error.get("text", "")}
                self._record_failure(error)
                self._record_run()
                lines = [f"    {printable(line)}" for line in error["text"].splitlines()]
                report("\n".join([f"{self.unit.tag}: failed with status {status}", *lines]))
                return False
            self._record_image(image)
        seconds = time.time() - self.began
        report(f"{self.unit.tag}: built in {seconds:.0f} s")
        return True

    def _build(self, image: Path) -> int:
        words = [sys.executable, "-m", "singbuild", "build", "--json", "--format", FORMAT]
        words += ["--locked"] * self.unit.locked
        words += ["--check-reproducible"] * self.settings.twice
        words += ["--", self.recipe, str(image)]
        done = command.call(words, env=environment(), cwd=self.directory, on_line=self._line)
        if self.reproducible and not self.reproducible["same"]:
            # Two that differ leave no image; a page shows it, and what differs in a second one.
            words.remove("--check-reproducible")
            done = command.call(words, env=environment(), cwd=self.directory, on_line=self._line)
        return done.status

    def _line(self, line: str) -> None:
        """Take up one event of the build."""
        try:
            event = json.loads(line)
            name, seconds = event["event"], float(event.get("seconds", 0))
        except (ValueError, TypeError, KeyError, RecursionError):
            self.log.append(line)
            return
        match name:
            case "phase":
                self.phases.append((str(event["name"]), seconds))
                self.log.append(f"== {event['name']}: {event['reason']}")
            case "line" | "warning":
                self.log.append(str(event["text"]))
            case "error":
                self.error = event
                self.log.append(str(event["text"]))
            case "reproducible":
                self.reproducible = event
            case "difference":
                self.differences.append(str(event["path"]))
        del self.log[:-LOG_LINES]
        if time.monotonic() - self.reported >= heartbeat() and self.phases:
            self.reported = time.monotonic()
            so_far = f"{time.time() - self.began:.0f} s so far"
            self.report(f"{self.unit.tag}: {self.phases[-1][0]}, {so_far}")

    def _record_image(self, image: Path) -> None:
        """Keep the image and what it says of itself; the record comes last, and makes it count."""
        key = self.unit.key
        files = contents.files(image)
        self.site.write_files(key, files)
        bill = contents.bill(image)
        self.site.write(f"records/{key}.spdx.json", bill)
        provenance = contents.provenance(image)
        if provenance:
            self.site.write(f"records/{key}.provenance.json", provenance)
        record = contents.shown_by_itself(image)
        with image.open("rb") as file:
            digests = {name: _file_digest(file, name) for name in ("sha256", "md5")}
        _keep(image, self.site.image(key))
        self._record_run()
        facts = {
            "status": "built",
            "image": digests | {"size": self.site.image(key).stat().st_size},
            "reproducible": _verdict(self.reproducible, self.differences),
            "files": len(files),
            "sketch": contents.sketch(files),
            "provenance": bool(provenance),
            "programs": contents.programs(files),
            "licences": contents.licences(bill),
            "shown": record,
        }
        self._record(facts)

    def _record_failure(self, error: Mapping[str, Any]) -> None:
        self._record({"status": "failed", "error": dict(error)})

    def _record(self, facts: Mapping[str, Any]) -> None:
        """Write what pages show of the build, with the recipe's text."""
        unit, commit = self.unit, self.survey.commit
        own: dict[str, Any] = {
            "version": 1,
            "key": unit.key,
            "tag": unit.tag,
            "path": unit.path,
            "commit": {"id": commit.id, "time": commit.time},
            "source": self.source,
        }
        self.site.write(f"records/{unit.key}.json", dumped(own | dict(facts)))

    def _record_run(self) -> None:
        ended = time.time()
        begins = [seconds for _, seconds in self.phases] + [ended - self.began]
        steps = [
            {"name": name, "seconds": round(begins[n + 1] - seconds, 3)}
            for n, (name, seconds) in enumerate(self.phases)
        ]
        facts = {
            "began": int(self.began),
            "seconds": round(ended - self.began, 3),
            "steps": steps,
            "log": self.log,
        }
        self.site.write(f"runs/{self.unit.key}.json", dumped(facts))


def _verdict(event: Mapping[str, Any] | None, paths: Iterable[str]) -> dict[str, Any] | None:
    """Return whether two builds gave the same bytes; None when it was built once."""
    if event is None:
        return None
    return {"same": bool(event["same"]), "surroundings": event["surroundings"], "paths": [*paths]}


def _file_digest(file: Any, name: str) -> str:
    file.seek(0)
    return hashlib.file_digest(file, name).hexdigest()


def _place(image: Path, place: Path) -> None:
    """Put an image where the recipe that starts from it looks: beside the recipe that makes it."""
    if not os.path.lexists(place):
        _link_or_copy(image, place)


def _keep(image: Path, place: Path) -> None:
    """Move a new image into the store."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with workspace.part_file(place) as part:
        part.copy_from(image)
        part.chmod(0o755)
        workspace.rename_into_place(part, place, replace=True)


def _link_or_copy(image: Path, place: Path) -> None:
    try:
        os.link(image, place)
    except OSError:  # another file system
        shutil.copyfile(image, place)
