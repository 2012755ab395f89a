"""Decides what a build will do, before it does anything: a frozen value with a reason per step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from singbuild import __version__, workspace
from singbuild.backends import loading
from singbuild.backends.loading import Backend
from singbuild.configuration import reading
from singbuild.contract import Build, Reporter, Source
from singbuild.dockerfile.loading import ARCHITECTURES
from singbuild.errors import BackendError, RecipeError, RecipeKeyError, UsageError
from singbuild.plan import agents
from singbuild.recipe import grammar
from singbuild.recipe.grammar import Recipe, Section
from singbuild.recipe.recipe import STAGE
from singbuild.recipe.text import Text, printable
from singbuild.tree import shell_state

BOOTSTRAP_KEY = "Bootstrap"
WORKING = ("RUN", "COPY", "ADD", "WORKDIR")  # the instructions that change the tree


@dataclass(frozen=True)
class Step:
    """One step of a build. name: the phase; reason: why it is there, in the user's words."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that a build of one recipe will do, and with what. stages: those it needs, in order."""

    recipe: Recipe
    backend: Backend
    source: Source
    steps: tuple[Step, ...]
    stages: tuple[Plan, ...] = ()

    def reason(self, name: str) -> str:
        """Why a step is there, "" when it is not part of this plan."""
        return next((step.reason for step in self.steps if step.name == name), "")

    def located(self, error: RecipeKeyError) -> RecipeError:
        """Return a backend's complaint about a value, with the recipe's line."""
        header = self.recipe.header(error.keyword) or self.recipe.header(BOOTSTRAP_KEY)
        assert header
        return self.recipe.error(header, error.what, why=error.why, remedy=error.remedy)

    def as_build(self, image: Path, command: str = "build", *, locked: bool) -> Build:
        """Return the build of ``image`` as extensions see it. locked: it keeps to a lock."""
        return Build(
            recipe=self.recipe.path,
            text=self.recipe.text,
            bootstrap=self.backend.name,
            keywords=self.source.keywords,
            sections={name: section.body() for name, section in self.recipe.sections.items()},
            image=image,
            command=command,
            locked=locked,
            stages=tuple(stage.as_build(image, command, locked=locked) for stage in self.stages),
        )


def make(recipe: Recipe, report: Reporter, arch: str = "") -> Plan:
    """Plan the build of a recipe; needs no privilege and writes nothing.

    arch: the machine to build for, as `uname -m` or Go calls it; "" for this one.
    Raises BackendError for the backend, RecipeError for a keyword, UsageError for the machine.
    """
    used = {id(stage) for stage in recipe.needed}
    for stage in recipe.stages:
        if id(stage) not in used:
            name = f" {printable(stage.stage, keep=40)}" if stage.stage else ""
            report.warn(
                f"{recipe.path}:{stage.headers[0].line}: the stage{name} is not built: "
                "nothing copies from it"
            )
    for argument in _undeclared(recipe):
        report.warn(f"--build-arg {argument}: no ARG of {recipe.path} has that name")
    stages = tuple(_one(stage, report, arch, is_stage=True) for stage in recipe.needed)
    return _one(recipe, report, arch, stages)


def _undeclared(recipe: Recipe) -> list[str]:
    """Return the names of values that no instruction of a Dockerfile takes."""
    if not recipe.is_dockerfile:
        return []
    texts = [
        each.rest
        for part in (*recipe.stages, recipe)
        for each in part.instructions
        if each.keyword == "ARG"
    ]
    declared = {word.partition("=")[0] for text in texts for word in text.split()}
    return [name for name in recipe.arguments if name not in declared | {*recipe.globals}]


def _one(
    recipe: Recipe,
    report: Reporter,
    arch: str,
    stages: tuple[Plan, ...] = (),
    *,
    is_stage: bool = False,
) -> Plan:
    """Plan one stage, or the image."""
    backend = _backend(recipe)
    for text in (*backend.deprecations, *recipe.warnings):
        report.warn(text)
    for section in (recipe.sections.get(name) for name in ("setup", "post", "test")):
        if section and section.may_go_on:
            report.warn(
                f"{recipe.path}:{section.line}: %{section.name} is read by {section.program}, "
                "which may go on behind a command that fails"
            )
    source = Source(
        keywords=_keywords(recipe, backend, report),
        arch=_machine(recipe.platform or arch, backend),
        cache=workspace.cache_directory() / backend.name,
        report=report,
        bootstrap=backend.name,
        mirrors=reading.current().mirrors(),
    )
    steps = (
        _tree_steps(recipe, backend, is_stage=True) if is_stage else _steps(recipe, backend, stages)
    )
    plan = Plan(recipe, backend, source, tuple(steps), stages)
    try:
        backend.call("singbuild_check", source=source)
    except RecipeKeyError as error:
        raise plan.located(error) from error
    return plan


def _backend(recipe: Recipe) -> Backend:
    try:
        return loading.load(recipe.bootstrap)
    except BackendError as error:
        if header := recipe.header(BOOTSTRAP_KEY):
            error.what = f"{recipe.path}:{header.line}: {error.what}"
        raise agents.unknown(recipe) or error from error


def _instruction_steps(recipe: Recipe, backend: Backend) -> Iterable[Step]:
    """Yield the steps of a Dockerfile's stage."""
    header = recipe.header("From")
    assert header
    if recipe.base:
        yield Step("bootstrap", f"line {header.line}: FROM {recipe.base}")
    else:
        yield Step(
            "bootstrap", f"line {header.line}: Bootstrap: {backend.name} brings {header.value}"
        )
    works = [each for each in recipe.instructions if each.keyword in WORKING]
    for number, each in enumerate(works, 1):
        name = f"{each.keyword.lower()}-{number}"
        yield Step(name, f"line {each.line}: {printable(' '.join(each.text.split()), keep=100)}")


def downloads(plan: Plan) -> Path:
    """Return the directory in the cache for a backend's downloads, which is made."""
    workspace.make_in_cache(plan.source.cache)
    return plan.source.cache


def _machine(option: str, backend: Backend) -> str:
    here = os.uname().machine
    target = ARCHITECTURES.get(option, option) or here
    if target != here and not backend.needs.foreign:
        raise UsageError(
            f"--arch {option}: Bootstrap: {backend.name} builds for the machine that it is on",
            why=f"This one is {here}, and programs of the new tree are executed.",
            remedy="Build on such a machine, or bring it in with Bootstrap: docker.",
        )
    return target


def _keywords(recipe: Recipe, backend: Backend, report: Reporter) -> dict[str, str]:
    """Return the header's values under the backend's spelling, defaults filled in."""
    keywords = {keyword.name.lower(): keyword for keyword in backend.needs.keywords}
    set_values = {}
    mirrors = reading.current().mirrors()
    for header in recipe.headers:
        name, where = header.name.lower(), f"{recipe.path}:{header.line}"
        if name in (BOOTSTRAP_KEY.lower(), STAGE):
            continue
        if name not in keywords | dict.fromkeys(agents.KEYS):
            raise recipe.unknown(header, [keyword.name for keyword in keywords.values()])
        if not header.value:
            report.warn(f"{where}: {header.name} has no value, and no effect")
        elif name not in keywords:
            report.warn(f"{where}: {header.name} has no effect: {recipe.bootstrap} has no such key")
        else:
            set_values[keywords[name].name] = mirrors.get(header.value.lower(), header.value)
    for keyword in keywords.values():
        if keyword.required and not set_values.get(keyword.name):
            raise _missing(recipe, backend, keyword.name, keyword.help)
    defaults = {
        k.name: k.default for k in keywords.values() if k.default and k.name not in set_values
    }
    return set_values | defaults


def _missing(recipe: Recipe, backend: Backend, name: str, meaning: str) -> RecipeError:
    header = recipe.header(BOOTSTRAP_KEY)
    assert header
    return recipe.error(
        header,
        f"the backend {backend.name!r} needs the keyword {name}",
        why=f"{name}: {meaning}",
        remedy=f"Add a line '{name}: VALUE' to the header.",
    )


def _steps(recipe: Recipe, backend: Backend, stages: tuple[Plan, ...]) -> Iterable[Step]:
    origin = f"{backend.installed.distribution} {backend.installed.version}"
    yield Step("check", "host programs, privilege, space and target, before anything is written")
    yield Step("resolve", f"Bootstrap: {backend.name} ({origin}) resolves the exact inputs")
    if stages:
        names = ", ".join(stage.recipe.stage for stage in stages)
        yield Step("stages", f"the trees that later ones read, or what they took of them: {names}")
    yield Step("scratch", "an empty tree, where nobody else sees it")
    yield from _tree_steps(recipe, backend)
    yield Step("metadata", "runscript, environment, labels and recipe, in /.singularity.d")
    yield Step("seal", "nondeterministic files are removed; the tree becomes one file")
    if section := recipe.sections.get("test"):
        yield Step("test", f"%test at line {section.line}: in the tree that was sealed")
    yield Step("finish", "the image is moved into place, atomically")


def _tree_steps(recipe: Recipe, backend: Backend, *, is_stage: bool = False) -> Iterable[Step]:
    """Yield the steps that change the tree: all that an earlier stage has."""
    if recipe.is_dockerfile:
        yield from _instruction_steps(recipe, backend)
        return
    if section := recipe.sections.get("pre"):
        yield Step("pre", f"%pre at line {section.line}: on the host, before the tree is filled")
    yield Step("bootstrap", f"Bootstrap: {backend.name} fills it")
    for name, what in (
        ("setup", "on the host, with the tree's path in $SINGBUILD_ROOTFS"),
        ("files", f"copied from {_origins(recipe)}"),
    ):
        of_apps = [app.sections[name] for app in recipe.apps if name in app.sections]
        if section := recipe.sections.get(name) or next(iter(of_apps), None):
            yield Step(name, f"%{section.name} at line {section.line}: {what}")
    for name, part in posts(recipe):
        others = "".join(f", with the one at line {place}" for place in part.places[1:])
        yield Step(name, f"%post at line {part.line}{others}: in the image, as root")
    if lines := [app.sections["install"].line for app in recipe.apps if "install" in app.sections]:
        yield Step("appinstall", f"%appinstall at {_at(lines)}: in the image, as root")
    elif is_stage and recipe.apps:
        yield Step("appinstall", "what the recipe says of its apps")


def _at(lines: list[int]) -> str:
    return f"line {lines[0]}" + "".join(f", {line}" for line in lines[1:])


def posts(recipe: Recipe) -> Iterator[tuple[str, Section]]:
    """Yield the steps that %post is, each with its name."""
    if section := recipe.sections.get("post"):
        parts = shell_state.parts(section)
        for number, part in enumerate(parts, 1):
            yield (f"post-{number}", part) if len(parts) > 1 else ("post", section)


def _origins(recipe: Recipe) -> str:
    names = dict.fromkeys(f"stage {i.stage}" if i.stage else "the host" for i in recipe.files)
    return ", ".join(names) or "the host"


def build_record(plan: Plan, *, free: int, resumed: bool = False, host: Sequence[str] = ()) -> str:
    """Return how an image was made, as JSON; the same for equal builds.

    free: bytes; host: what sections saw of the host, in the words of the options.
    """
    facts: dict[str, Any] = {"singbuild": __version__, "free": free}
    steps = _steps(_in_image(plan.recipe), plan.backend, plan.stages)
    facts["steps"] = [{"name": step.name, "reason": step.reason} for step in steps]
    if plan.stages:
        facts["stages"] = [
            {
                "name": stage.recipe.stage,
                "backend": f"{stage.backend.name} {stage.backend.installed.version}",
                "source": stage.recipe.base or stage.source.keywords.get("From", ""),
            }
            for stage in plan.stages
        ]
    if resumed:
        facts["resumed"] = True
    if host:
        facts["host"] = [*host]
    return json.dumps(facts, indent=4) + "\n"


def _in_image(recipe: Recipe) -> Recipe:
    """Return a recipe with the lines of its text in the image: of a template, once it is filled.

    The image has the filled text alone: with the template's lines a build from that would have
    another record, and so another image.
    """
    if not recipe.source.template:
        return recipe
    filled = grammar.parse(Text(recipe.path, recipe.text), recipe.headers)
    return replace(
        recipe,
        source=filled.source,
        headers=filled.headers,
        sections={name: filled.sections[name] for name in recipe.sections},
        files=filled.files if recipe.files else (),
        apps=filled.apps if recipe.apps else (),
    )


def described(plan: Plan) -> str:
    """Return the plan as ``singbuild plan`` prints it, its stages first."""
    stages = [_described(each, f"stage {each.recipe.stage}") + "\n" for each in plan.stages]
    return "\n".join([*stages, _described(plan, plan.recipe.path)])


def facts(plan: Plan) -> dict[str, Any]:
    """Return the plan as ``singbuild plan --json`` prints it."""
    return {
        "recipe": plan.recipe.path,
        "stage": plan.recipe.stage,
        "bootstrap": plan.backend.name,
        "arch": plan.source.arch,
        "keywords": dict(plan.source.keywords),
        "programs": [program.name for program in plan.backend.needs.programs],
        "steps": [{"name": step.name, "reason": step.reason} for step in plan.steps],
        "stages": [facts(stage) for stage in plan.stages],
    }


def _described(plan: Plan, name: str) -> str:
    width = max(len(step.name) for step in plan.steps)
    lines = [f"{number:2}. {s.name:{width}}  {s.reason}" for number, s in enumerate(plan.steps, 1)]
    keywords = [f"    {name}: {value}" for name, value in plan.source.keywords.items()]
    programs = ", ".join(p.name for p in plan.backend.needs.programs) or "none"
    head = f"{name}: Bootstrap: {plan.backend.name}"
    return "\n".join([head, *keywords, f"Host programs: {programs}", "", *lines])
