"""The steps of a definition file: bootstrap, %setup, %files, and each %post."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from singbuild import entry_points
from singbuild.contract import Defaults, Reporter, Source
from singbuild.plan.job import Job
from singbuild.plan.plan import posts
from singbuild.recipe.grammar import Section
from singbuild.steps import inputs, stage_files
from singbuild.steps.step import Facts, TreeStep, Workplace, digest, joined
from singbuild.tree import apps, host_files, metadata, sections, shell_state
from singbuild.tree.rootfs import Rootfs

BEFORE_TEST = (
    "environment",
    "runscript",
    "startscript",
    "labels",
    "help",
)  # written into the tree by then


def steps(job: Job, stage_keys: Mapping[str, str]) -> tuple[TreeStep, ...]:
    """Return the steps of a job. stage_keys: the keys of its stages' last snapshots, by stage.

    A step that copies from a stage without a snapshot gets none either.
    """
    tree_steps = [*_on_host(job, "setup"), *_files(job, stage_keys), *_posts(job), *_apps(job)]
    if tree_steps:
        tree_steps[0] = _with_directory(job, tree_steps[0])
    return (*_on_host(job, "pre"), bootstrap(job), *tree_steps)


def _with_directory(job: Job, step: TreeStep) -> TreeStep:
    """Return a step that makes the image's own directory, /.singularity.d, before it begins.

    Not the bootstrap, whose snapshot then serves other recipes as well.
    """
    recipe = job.plan.recipe

    def execute(workplace: Workplace, state: str | None) -> str | None:
        prepare_metadata(job, workplace.rootfs, job.source)
        return step.execute(workplace, state)

    more = {f"app {app.name}": "" for app in recipe.apps}
    environment = recipe.sections.get("environment")
    if environment and metadata.is_read(recipe):
        more["%environment"] = _script(environment)
    facts = joined(step.facts, more)
    return replace(step, facts=facts, execute=execute)


def prepare_metadata(job: Job, rootfs: Rootfs, source: Source) -> None:
    """Make the image's own directory, unless the tree has it from this build.

    source: as the backend gets it.
    """
    if not rootfs.exists(metadata.PREPARED):
        call = job.plan.backend.call
        defaults = call("singbuild_defaults", source=source, pins=job.pins, rootfs=rootfs)
        metadata.prepare(rootfs, job.plan.recipe, defaults or Defaults())


def bootstrap(job: Job) -> TreeStep:
    """Return the step in which the backend fills the tree."""

    def execute(workplace: Workplace, state: str | None) -> str | None:
        call = job.plan.backend.call
        call("singbuild_bootstrap", source=job.source, pins=job.pins, rootfs=workplace.rootfs)
        return state

    names = ("backend", "singbuild", "arch", "epoch", "tools", "pins")
    facts = {name: digest(job.lock[name]) for name in names} | {
        "keywords": digest(dict(job.plan.source.keywords)),
        "code": entry_points.code_digest("singbuild", job.plan.backend.installed.entry.module),
    }
    return _step(job, "bootstrap", facts, execute)


def facts_before_test(job: Job) -> Facts:
    """Return what goes into the tree between its last step and %test."""
    scripts = {name: job.plan.recipe.sections.get(name) for name in BEFORE_TEST}
    return {f"%{name}": _script(section) for name, section in scripts.items() if section}


def _on_host(job: Job, name: str) -> Iterator[TreeStep]:
    recipe = job.plan.recipe

    def execute(workplace: Workplace, state: str | None) -> str | None:
        sections.on_host(
            recipe, name, workplace.rootfs, workplace.scratch, job.options.section_options
        )
        return state

    if section := recipe.sections.get(name):
        # What a script on the host reads cannot be known.
        facts = {f"%{name}": _script(section)}
        yield replace(_step(job, name, facts, execute), is_known=False)


def _files(job: Job, stage_keys: Mapping[str, str]) -> Iterator[TreeStep]:
    recipe = job.plan.recipe
    stages = tuple(dict.fromkeys(item.stage for item in recipe.files if item.stage))

    def execute(workplace: Workplace, state: str | None) -> str | None:
        digests: dict[str, str] = {}
        for item in recipe.files:
            if item.stage:
                stage_files.copy(recipe, item, workplace.stages[item.stage].image, workplace.rootfs)
            else:
                digests |= host_files.copy(recipe, item, workplace.rootfs)
        inputs.compare(job, workplace, job.lock["files"], digests)
        return state

    if job.plan.reason("files"):
        lines = [
            (item.source, item.destination, *filter(None, [item.stage])) for item in recipe.files
        ]
        of_stages = {f"stage {name}": stage_keys.get(name, "") for name in stages}
        facts = joined({"%files": digest(lines)}, job.lock["files"], of_stages)
        is_known = all(stage_keys.get(name) for name in stages)
        yield replace(_step(job, "files", facts, execute), stages=stages, is_known=is_known)


def _posts(job: Job) -> Iterator[TreeStep]:
    recipe, options = job.plan.recipe, job.options.section_options
    parts = list(posts(recipe))
    for name, part in parts:

        def execute(
            workplace: Workplace, state: str | None, name: str = name, part: Section = part
        ) -> str | None:
            if state is None:
                _warn_of_exit(workplace.rootfs.report, name)
            elif len(parts) == 1:
                workplace.began.update(sections.post(recipe, part, workplace.rootfs, options))
            else:
                is_last = name == parts[-1][0]
                with shell_state.lent(workplace.rootfs, state):
                    script = shell_state.script(part, is_last=is_last)
                    sections.post(recipe, part, workplace.rootfs, options, script)
                    return "" if is_last else shell_state.take(workplace.rootfs)
            return state

        facts = {"%post": _script(part)}
        if job.secrets:  # their values may change, as passwords do; their names may not
            facts["secrets"] = digest(sorted(secret.name for secret in job.secrets))
        if name != parts[-1][0]:
            facts["%post after it"] = ""  # it hands the state of its shell on
        whole = part if len(parts) == len(part.places) == 1 else None
        step = replace(_step(job, name, facts, execute), uses_secrets=True, whole=whole)
        yield replace(step, is_known=not job.options.section_options.host.words())


def _apps(job: Job) -> Iterator[TreeStep]:
    recipe = job.plan.recipe
    scripts = {
        app.name: app.sections["install"] for app in recipe.apps if "install" in app.sections
    }

    def execute(workplace: Workplace, state: str | None) -> str | None:
        sections.install_apps(recipe, workplace.rootfs, job.options.section_options)
        # A later stage may copy them; the image's own are written with its other metadata.
        if job.is_stage:
            apps.write(workplace.rootfs, recipe)
        return state

    if scripts or (job.is_stage and recipe.apps):
        facts = {f"%appinstall {name}": _script(section) for name, section in scripts.items()}
        if job.is_stage:
            texts = {a.name: [_script(each) for each in a.sections.values()] for a in recipe.apps}
            facts["apps"] = digest([texts, [app.labels for app in recipe.apps]])
        step = replace(_step(job, "appinstall", facts, execute), uses_secrets=True)
        yield replace(step, is_known=not job.options.section_options.host.words())


def _warn_of_exit(report: Reporter, name: str) -> None:
    report.warn(f"{name} is left out: a %post before it called exit, which ends all of %post")


def _step(job: Job, name: str, facts: Facts, execute: object) -> TreeStep:
    return TreeStep(name, job.plan.reason(name), facts, execute)  # type: ignore[arg-type]


def _script(section: Section) -> str:
    return digest([section.body(), section.interpreter, section.shell_options])
