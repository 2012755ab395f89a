"""Brings a tree to its state after %post, step by step, from the latest snapshot in the cache.

Each step says what goes into it. A snapshot's key is a digest of that and of the key before
it, so whatever changes, changes the keys of all that follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from singbuild import entry_points
from singbuild.cache import store
from singbuild.cache.store import Snapshot
from singbuild.console.display import Console
from singbuild.plan.job import Job
from singbuild.recipe.grammar import Section
from singbuild.tree import secrets, sections
from singbuild.tree.rootfs import Rootfs

STEPS = ("bootstrap", "setup", "files", "post", "test")
IMAGE = "image"  # the snapshot that is the finished image
BEFORE_TEST = ("environment", "runscript", "labels", "help")  # written into the tree by then


def fill(
    job: Job,
    rootfs: Rootfs,
    work: Path,
    console: Console,
    snapshots: Mapping[str, Snapshot],
    first: str = "",
) -> None:
    """Do the bootstrap, %setup, %files and %post of a job on an empty tree.

    work: the scratch directory; snapshots: to take from the cache or to keep there, by step;
    first: the step to begin with, on a tree that is as it was left before. Raises what the
    backend and the sections raise.
    """
    plan = job.plan
    waiting = [name for name in STEPS if name != "test" and plan.reason(name)]
    if first:
        waiting = [name for name in waiting if STEPS.index(name) >= STEPS.index(first)]
    elif hit := _restored(snapshots, rootfs, console):
        waiting = waiting[waiting.index(hit) + 1 :]
    for name in waiting:
        console.phase(name, plan.reason(name))
        _execute(name, job, rootfs, work)
        if name in snapshots:
            secrets.check_absent(rootfs.root, job.secrets if name == "post" else ())
            store.store(snapshots[name], rootfs, job.epoch, console)


def _execute(name: str, job: Job, rootfs: Rootfs, work: Path) -> None:
    recipe, context = job.plan.recipe, job.options.sections
    match name:
        case "bootstrap":
            call = job.plan.backend.call
            call("singbuild_bootstrap", source=job.source, pins=job.pins, rootfs=rootfs)
        case "setup":
            sections.setup(recipe, rootfs, work, context)
        case "files":
            sections.files(recipe, rootfs)
        case "post":
            sections.post(recipe, rootfs, context)


def _restored(snapshots: Mapping[str, Snapshot], rootfs: Rootfs, console: Console) -> str:
    """Fill the tree from the latest snapshot that is cached, and return its step, or ""."""
    for name in [name for name in reversed([*snapshots]) if name != IMAGE]:
        if entry := store.find(snapshots[name], console):
            rootfs.restore(entry.path, entry.source)
            return name
    return ""


def snapshots(job: Job, *, one_owner: bool) -> dict[str, Snapshot]:
    """Return the snapshots that a job may take from the cache or keep there, by step, in order.

    The last one, "image", is the finished image. With %setup, only the bootstrap is kept:
    what a script on the host reads cannot be known. one_owner: programs see their own owners
    there, so their trees are snapshots of their own.
    """
    # A resumed tree may hold what the failed run left.
    if job.options.resume or not job.options.use_cache:
        return {}
    recipe, inputs = job.plan.recipe, _inputs(job)
    if "setup" in inputs:
        inputs = {"bootstrap": inputs["bootstrap"]}
    else:
        inputs[IMAGE] = {"recipe": _digest([Path(recipe.path).name, recipe.text])} | {
            name: _digest(value) for name, value in (*job.options.finish.items(), *job.lock.items())
        }
    found: dict[str, Snapshot] = {}
    parent = ""
    for name, facts in inputs.items():
        if one_owner:
            facts = {**facts, "privilege": ""}
        found[name] = Snapshot(name, recipe.path, facts, parent)
        parent = found[name].key
    return found


def inputs_before(job: Job, section: str) -> dict[str, str]:
    """Return what goes into the tree before a section, name to digest."""
    inputs = _inputs(job)
    names = [name for name in STEPS if STEPS.index(name) < STEPS.index(section)]
    facts = {key: value for name in names for key, value in inputs.get(name, {}).items()}
    if section == "test":
        parts = {name: job.plan.recipe.sections.get(name) for name in BEFORE_TEST}
        facts |= {f"%{name}": _script(part) for name, part in parts.items() if part}
    return facts


def _inputs(job: Job) -> dict[str, dict[str, str]]:
    """Return what each step of a job adds to what went in, in their order."""
    sections = job.plan.recipe.sections
    inputs = {"bootstrap": _bootstrap(job)}
    if "setup" in sections:
        inputs["setup"] = {"%setup": _script(sections["setup"])}
    if "files" in sections:
        inputs["files"] = _files(job)
    if "post" in sections:
        inputs["post"] = {"%post": _script(sections["post"])}
        if job.secrets:  # their values may change, as passwords do; their names may not
            names = sorted(secret.name for secret in job.secrets)
            inputs["post"]["secrets"] = _digest(names)
    return inputs


def _bootstrap(job: Job) -> dict[str, str]:
    names = ("backend", "singbuild", "arch", "epoch", "tools", "pins")
    return {name: _digest(job.lock[name]) for name in names} | {
        "keywords": _digest(dict(job.plan.source.keywords)),
        "code": entry_points.code_digest("singbuild", job.plan.backend.installed.entry.module),
    }


def _files(job: Job) -> dict[str, str]:
    lines = [(item.source, item.destination) for item in job.plan.recipe.files]
    return {"%files": _digest(lines)} | dict(job.lock["files"])


def _script(section: Section) -> str:
    return _digest([section.body(), section.interpreter, section.shell_options])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
