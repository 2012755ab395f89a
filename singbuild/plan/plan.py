"""Decides what a build will do, before it does anything: a frozen value with a reason per step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from singbuild import __version__, workspace
from singbuild.backends import loading
from singbuild.backends.loading import Backend
from singbuild.contract import Build, Reporter, Source
from singbuild.errors import RecipeError, UsageError
from singbuild.recipe.grammar import Recipe
from singbuild.recipe.header import STAGE

BOOTSTRAP_KEY = "Bootstrap"
# Go's names, as container images have them: `uname -m`'s.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l", "386": "i686"}


@dataclass(frozen=True)
class Step:
    """One step of a build. name: the phase; reason: why it is there, in the user's words."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that a build of one recipe will do, and with what."""

    recipe: Recipe
    backend: Backend
    source: Source
    steps: tuple[Step, ...]

    def reason(self, name: str) -> str:
        """Why a step is there, "" when it is not part of this plan."""
        return next((step.reason for step in self.steps if step.name == name), "")

    def build(self, image: Path, *, locked: bool) -> Build:
        """Return the build of ``image`` as extensions see it. locked: it keeps to a lock."""
        return Build(
            recipe=self.recipe.path,
            text=self.recipe.text,
            bootstrap=self.backend.name,
            keywords=self.source.keywords,
            sections={name: section.body() for name, section in self.recipe.sections.items()},
            image=image,
            locked=locked,
        )


def make(recipe: Recipe, report: Reporter, arch: str = "") -> Plan:
    """Plan the build of a recipe; needs no privilege and writes nothing.

    arch: the machine to build for, as `uname -m` or Go calls it; "" for this one.
    Raises BackendError for the backend, RecipeError for a keyword, UsageError for the machine.
    """
    backend = loading.load(recipe.bootstrap)
    for text in backend.deprecations:
        report.warn(text)
    source = Source(
        keywords=_keywords(recipe, backend),
        arch=_machine(arch, backend),
        cache=workspace.cache_directory() / backend.name,
        report=report,
        bootstrap=backend.name,
    )
    return Plan(recipe, backend, source, tuple(_steps(recipe, backend)))


def _machine(asked: str, backend: Backend) -> str:
    here = os.uname().machine
    wanted = MACHINES.get(asked, asked) or here
    if wanted != here and not backend.needs.foreign:
        raise UsageError(
            f"--arch {asked}: Bootstrap: {backend.name} builds for the machine that it is on",
            why=f"This one is {here}, and programs of the new tree are executed.",
            remedy="Build on such a machine, or bring it in with Bootstrap: docker.",
        )
    return wanted


def _keywords(recipe: Recipe, backend: Backend) -> dict[str, str]:
    """Return the header's values under the backend's spelling, defaults filled in."""
    known = {keyword.name.lower(): keyword for keyword in backend.needs.keywords}
    given = {}
    for header in recipe.headers:
        if header.name.lower() in known:
            given[known[header.name.lower()].name] = header.value
        elif header.name.lower() not in (BOOTSTRAP_KEY.lower(), STAGE):
            raise recipe.unknown(header, [keyword.name for keyword in known.values()])
    for keyword in known.values():
        if keyword.required and not given.get(keyword.name):
            raise _missing(recipe, backend, keyword.name, keyword.help)
    defaults = {k.name: k.default for k in known.values() if k.default and k.name not in given}
    return given | defaults


def _missing(recipe: Recipe, backend: Backend, name: str, meaning: str) -> RecipeError:
    header = recipe.header(BOOTSTRAP_KEY)
    assert header
    return recipe.error(
        header,
        f"the backend {backend.name!r} needs the keyword {name}",
        why=f"{name}: {meaning}",
        remedy=f"Add a line '{name}: VALUE' to the header.",
    )


def _steps(recipe: Recipe, backend: Backend) -> Iterable[Step]:
    origin = f"{backend.installed.distribution} {backend.installed.version}"
    yield Step("check", "host programs, privilege, space and target, before anything is written")
    yield Step("resolve", f"Bootstrap: {backend.name} ({origin}) finds out what exactly goes in")
    yield Step("scratch", "a fresh ext3 image, mounted where nobody else sees it")
    yield Step("bootstrap", f"Bootstrap: {backend.name} fills it")
    for name, what in (
        ("setup", "on the host, with the tree's path in $SINGBUILD_ROOTFS"),
        ("files", "copied from the host"),
        ("post", "in the image, as root"),
    ):
        if section := recipe.sections.get(name):
            yield Step(name, f"%{name} at line {section.line}: {what}")
    yield Step("metadata", "runscript, environment, labels and recipe, in /.singularity.d")
    if section := recipe.sections.get("test"):
        yield Step("test", f"%test at line {section.line}: in the finished image")
    yield Step("seal", "what differs from run to run is taken away; the tree becomes one file")
    yield Step("finish", "the file gets its name, all at once")


def recorded(plan: Plan, *, tested: bool, free: int, resumed: bool = False) -> str:
    """Return how an image was made, as JSON; the same for equal builds. free: bytes."""
    steps = [{"name": step.name, "reason": step.reason} for step in plan.steps]
    facts = {"singbuild": __version__, "tested": tested, "free": free, "steps": steps}
    if resumed:
        facts["resumed"] = True
    return json.dumps(facts, indent=4) + "\n"


def described(plan: Plan) -> str:
    """Return the plan as ``singbuild plan`` prints it."""
    width = max(len(step.name) for step in plan.steps)
    lines = [f"{number:2}. {s.name:{width}}  {s.reason}" for number, s in enumerate(plan.steps, 1)]
    given = [f"    {name}: {value}" for name, value in plan.source.keywords.items()]
    programs = ", ".join(p.name for p in plan.backend.needs.programs) or "none"
    head = f"{plan.recipe.path}: Bootstrap: {plan.backend.name}"
    return "\n".join([head, *given, f"Host programs: {programs}", "", *lines])
