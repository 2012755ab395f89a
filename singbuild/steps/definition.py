"""The steps of a definition file: bootstrap, %setup, %files, and each %post."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from singbuild import entry_points
from singbuild.contract import Reporter
from singbuild.plan.job import Job
from singbuild.plan.plan import posts
from singbuild.recipe.grammar import Section
from singbuild.steps import stage_files
from singbuild.steps.step import Facts, Site, TreeStep, digest
from singbuild.tree import sections, shell_state

BEFORE_TEST = ("environment", "runscript", "labels", "help")  # written into the tree by then


def steps(job: Job, stage_keys: Mapping[str, str]) -> tuple[TreeStep, ...]:
    """Return the steps of a job. stage_keys: the snapshots that its stages are, by stage.

    A stage without one is not known well enough to be kept, and so is what is copied from it.
    """
    return (bootstrap(job), *_setup(job), *_files(job, stage_keys), *_posts(job))


def bootstrap(job: Job) -> TreeStep:
    """Return the step in which the backend fills the tree."""

    def execute(site: Site, state: str | None) -> str | None:
        call = job.plan.backend.call
        call("singbuild_bootstrap", source=job.source, pins=job.pins, rootfs=site.rootfs)
        return state

    names = ("backend", "singbuild", "arch", "epoch", "tools", "pins")
    facts = {name: digest(job.lock[name]) for name in names} | {
        "keywords": digest(dict(job.plan.source.keywords)),
        "code": entry_points.code_digest("singbuild", job.plan.backend.installed.entry.module),
    }
    return _step(job, "bootstrap", facts, execute)


def facts_before_test(job: Job) -> Facts:
    """Return what goes into the tree between its last step and %test."""
    found = {name: job.plan.recipe.sections.get(name) for name in BEFORE_TEST}
    return {f"%{name}": _script(section) for name, section in found.items() if section}


def _setup(job: Job) -> Iterator[TreeStep]:
    recipe = job.plan.recipe

    def execute(site: Site, state: str | None) -> str | None:
        sections.setup(recipe, site.rootfs, site.work, job.options.sections)
        return state

    if section := recipe.sections.get("setup"):
        # What a script on the host reads cannot be known.
        facts = {"%setup": _script(section)}
        yield replace(_step(job, "setup", facts, execute), is_known=False)


def _files(job: Job, stage_keys: Mapping[str, str]) -> Iterator[TreeStep]:
    recipe = job.plan.recipe
    stages = tuple(dict.fromkeys(item.stage for item in recipe.files if item.stage))

    def execute(site: Site, state: str | None) -> str | None:
        for item in recipe.files:
            if item.stage:
                stage_files.copy(recipe, item, site.stages[item.stage].image, site.rootfs)
            else:
                sections.copy(recipe, item, site.rootfs)
        return state

    if "files" in recipe.sections:
        lines = [
            (item.source, item.destination, *filter(None, [item.stage])) for item in recipe.files
        ]
        facts = {"%files": digest(lines)} | dict(job.lock["files"])
        facts |= {f"stage {name}": stage_keys.get(name, "") for name in stages}
        is_known = all(stage_keys.get(name) for name in stages)
        yield replace(_step(job, "files", facts, execute), stages=stages, is_known=is_known)


def _posts(job: Job) -> Iterator[TreeStep]:
    recipe, context = job.plan.recipe, job.options.sections
    found = list(posts(recipe))
    for name, part in found:

        def execute(
            site: Site, state: str | None, name: str = name, part: Section = part
        ) -> str | None:
            if state is None:
                _tell_of_exit(site.rootfs.report, name)
            elif len(found) == 1:
                site.began.update(sections.post(recipe, part, site.rootfs, context))
            else:
                is_last = name == found[-1][0]
                with shell_state.lent(site.rootfs, state):
                    script = shell_state.script(part, is_last=is_last)
                    sections.post(recipe, part, site.rootfs, context, script)
                    return "" if is_last else shell_state.taken(site.rootfs)
            return state

        facts = {"%post": _script(part)}
        if job.secrets:  # their values may change, as passwords do; their names may not
            facts["secrets"] = digest(sorted(secret.name for secret in job.secrets))
        if name != found[-1][0]:
            facts["%post after it"] = ""  # it hands the state of its shell on
        whole = part if len(found) == len(part.places) == 1 else None
        yield replace(_step(job, name, facts, execute), uses_secrets=True, whole=whole)


def _tell_of_exit(report: Reporter, name: str) -> None:
    report.warn(f"{name} is left out: a %post before it called exit, which ends all of %post")


def _step(job: Job, name: str, facts: Facts, execute: object) -> TreeStep:
    return TreeStep(name, job.plan.reason(name), facts, execute)  # type: ignore[arg-type]


def _script(section: Section) -> str:
    return digest([section.body(), section.interpreter, section.shell_options])
