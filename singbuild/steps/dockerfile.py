"""The steps of a Dockerfile's stage: its base, and each RUN, COPY, ADD and WORKDIR."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from singbuild.contract import Source
from singbuild.dockerfile import files
from singbuild.dockerfile.actions import Action, Copy, Run, Workdir, stages_of
from singbuild.errors import SectionError
from singbuild.plan.job import Job
from singbuild.privilege import namespace
from singbuild.recipe.recipe import SCRATCH
from singbuild.steps import accounts, copying, definition, inputs, run_mounts
from singbuild.steps.accounts import UnknownAccountError
from singbuild.steps.step import TreeStep, Workplace, digest, joined
from singbuild.tree import binds, chroot, sections

SCRIPT = "/.singbuild.script"


def steps(job: Job, stage_keys: Mapping[str, str]) -> tuple[TreeStep, ...]:
    """Return the steps of a stage's job. stage_keys: as ``definition.steps`` takes them."""
    assert job.evaluation
    first = _base(job, stage_keys) if job.plan.recipe.base else definition.bootstrap(job)
    return (first, *(_step(job, action, stage_keys) for action in job.evaluation.actions))


def source(job: Job) -> Source:
    """Return the source with the configuration that the instructions made of its image's."""
    assert job.evaluation
    return replace(job.source, config=job.evaluation.config)


def records(job: Job) -> dict[str, str]:
    """Return the file that has the image's configuration, as container runtimes know it."""
    assert job.evaluation
    text = json.dumps(dict(job.evaluation.config), indent=4, sort_keys=True)
    return {"container.json": f"{text}\n"}


def _base(job: Job, stage_keys: Mapping[str, str]) -> TreeStep:
    """Return the step that begins with an empty tree, or with that of an earlier stage."""
    base = job.plan.recipe.base

    def execute(workplace: Workplace, state: str | None) -> str | None:
        if base != SCRATCH:
            workplace.rootfs.restore(workplace.stages[base].image, workplace.stages[base].source)
        return state

    if base == SCRATCH:
        names = ("singbuild", "arch", "epoch")
        facts = {name: digest(job.lock[name]) for name in names}
        return TreeStep("bootstrap", "FROM scratch: an empty tree", facts, execute)
    key = stage_keys.get(base, "")
    facts, reason = {f"stage {base}": key}, f"FROM {base}: the tree of that stage"
    return TreeStep("bootstrap", reason, facts, execute, stages=(base,), is_known=bool(key))


def _step(job: Job, action: Action, stage_keys: Mapping[str, str]) -> TreeStep:
    stages = tuple(dict.fromkeys(stages_of(action)))
    of_stages = {f"stage {name}": stage_keys.get(name, "") for name in stages}
    # A comment above it moves an instruction, and changes nothing else.
    somewhere = replace(action, instruction=replace(action.instruction, line=0))
    itself = {action.instruction.keyword: digest(asdict(somewhere))}
    facts = joined(itself, dict(_files(job, action)), of_stages)

    def execute(workplace: Workplace, state: str | None) -> str | None:
        try:
            _execute(job, action, workplace)
        except UnknownAccountError as error:
            raise failed(job, action, str(error)) from error
        return state

    reason = job.plan.reason(action.name) or f"ONBUILD of the base: {action.instruction.text}"
    uses_secrets = isinstance(action, Run) and any(m.kind == "secret" for m in action.mounts)
    return TreeStep(
        action.name,
        reason,
        facts,
        execute,
        stages=stages,
        is_known=all(stage_keys.get(name) for name in stages)
        and not (isinstance(action, Run) and job.options.section_options.host.words()),
        uses_secrets=uses_secrets,
    )


def _files(job: Job, action: Action) -> Iterator[tuple[str, str]]:
    """Yield the digests of what an action reads of the context, as the lock has them."""
    for name, key in files.names(action) if isinstance(action, Copy | Run) else ():
        yield name, job.lock["files"][key]


def _execute(job: Job, action: Action, workplace: Workplace) -> None:
    match action:
        case Run():
            _run(job, action, workplace)
        case Copy():
            digests = copying.copy(job.plan.recipe, action, workplace, job.epoch, job.source)
            _compare(job, action, workplace, digests)
        case Workdir():
            path = action.directory
            if not workplace.rootfs.exists(path):
                workplace.rootfs.mkdir(path)


def _compare(
    job: Job, action: Copy | Run, workplace: Workplace, digests: Mapping[str, str]
) -> None:
    planned = {key: job.lock["files"][key] for _, key in files.names(action)}
    inputs.compare(job, workplace, planned, digests)


def _run(job: Job, action: Run, workplace: Workplace) -> None:
    rootfs = workplace.rootfs
    who = (
        accounts.account(rootfs, action.user)
        if action.user
        else accounts.Account(0, 0, (), "/root")
    )
    env = {"HOME": who.home, **dict(action.environment), **rootfs.variables}
    argv = list(action.argv)
    if action.script:
        rootfs.write(SCRIPT, action.script, 0o755)
        argv = [SCRIPT]
    for name in _sources_missing(job, action):
        raise failed(
            job,
            action,
            f"there is no secret {name}",
            remedy=f"Build with --secret id={name},src=FILE.",
        )
    if not rootfs.exists(action.directory):
        rootfs.mkdir(action.directory)
    user = (who.uid, who.gid, who.groups)
    try:
        with (
            sections.host_names(rootfs),
            binds.lent(rootfs, job.options.section_options.host) as (directories, devices),
            run_mounts.mounted(job, action, workplace) as (more, digests),
        ):
            _compare(job, action, workplace, digests)
            print_line = rootfs.report.line
            for name, directory in directories.items():
                env[name] = ":".join(filter(None, [env.get(name), directory]))
            done = chroot.call(
                rootfs.root,
                argv,
                env=env | more,
                on_line=print_line,
                directory=action.directory,
                user=user,
                devices=devices,
                offline=action.is_offline,
            )
            if done.status:
                error = failed(job, action, f"RUN failed with status {done.status}", tail=done.tail)
                if rescue := job.options.section_options.rescue:
                    rescue(
                        error,
                        lambda extra: chroot.interactive(
                            rootfs.root, ["/bin/sh"], env=env | dict(extra)
                        ),
                    )
                raise error
    finally:
        namespace.end_others()
        with contextlib.suppress(FileNotFoundError):
            rootfs.remove(SCRIPT)


def _sources_missing(job: Job, action: Run) -> Iterator[str]:
    names = {secret.name for secret in job.secrets}
    for mount in action.mounts:
        name = run_mounts.secret_name(mount) if mount.kind == "secret" else ""
        if name and name not in names and mount.fields.get("required", "false") == "true":
            yield name


def failed(
    job: Job, action: Action, what: str, *, remedy: str = "", tail: tuple[str, ...] = ()
) -> SectionError:
    """Return the error for an instruction whose work failed."""
    recipe, instruction = job.plan.recipe, action.instruction
    first, *_ = instruction.text.split("\n")
    return SectionError(
        f"{recipe.path}:{instruction.line}: {what}",
        section=instruction.keyword,
        why="\n".join([f"  {instruction.line:4} | {first}", *tail]),
        remedy=remedy,
    )
