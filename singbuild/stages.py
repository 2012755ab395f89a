"""Brings the tree to the state after %post, stage by stage, from the latest one that is cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from singbuild import backends, cache, lock, sections
from singbuild.cache import Stage
from singbuild.console import Console
from singbuild.plan import Plan
from singbuild.recipe import Section
from singbuild.rootfs import Rootfs


def fill(
    rootfs: Rootfs,
    plan: Plan,
    arguments: dict[str, Any],
    made: lock.Lock,
    work: Path,
    console: Console,
    kept: Mapping[str, Stage],
) -> None:
    """Do the bootstrap, %setup, %files and %post of a plan on an empty tree.

    arguments: of the backend's hooks; work: the scratch directory; kept: the stages to
    take from the cache or to keep there, by name. Raises what the backend and the sections raise.
    """
    steps: dict[str, Callable[[], object]] = {
        "bootstrap": lambda: plan.backend.call("singbuild_bootstrap", **arguments),
        "setup": lambda: sections.setup(plan.recipe, rootfs, work),
        "files": lambda: sections.files(plan.recipe, rootfs),
        "post": lambda: sections.post(plan.recipe, rootfs),
    }
    waiting = [name for name in steps if plan.reason(name)]
    if hit := _restored(kept, rootfs, work, console):
        waiting = waiting[waiting.index(hit) + 1 :]
    for name in waiting:
        console.phase(name, plan.reason(name))
        steps[name]()
        if name in kept:
            cache.store(kept[name], rootfs, made["epoch"], console)


def _restored(kept: Mapping[str, Stage], rootfs: Rootfs, work: Path, console: Console) -> str:
    """Fill the tree from the latest stage that is cached, and return its name, or ""."""
    for name in [name for name in reversed([*kept]) if name != "image"]:
        if entry := cache.find(kept[name], console):
            cache.restore(entry, rootfs, work / "cached")
            return name
    return ""


def cacheable(plan: Plan, made: lock.Lock, finish: Mapping[str, str]) -> dict[str, Stage]:
    """Return the stages of a build in order, each under the key of the one before.

    The last one, "image", is the finished image. finish: what else has a say in it.
    With %setup, only the bootstrap is kept: what a script on the host reads cannot be known.
    """
    inputs = {"bootstrap": _bootstrap(plan, made)}
    sections = plan.recipe.sections
    if "setup" not in sections:
        if "files" in sections:
            inputs["files"] = _files(plan, made)
        if "post" in sections:
            inputs["post"] = {"%post": _script(sections["post"])}
        inputs["image"] = {"recipe": _digest([Path(plan.recipe.path).name, plan.recipe.text])} | {
            name: _digest(value) for name, value in (*finish.items(), *made.items())
        }
    stages: dict[str, Stage] = {}
    parent = ""
    for name, given in inputs.items():
        stages[name] = Stage(name, plan.recipe.path, given, parent)
        parent = stages[name].key
    return stages


def _bootstrap(plan: Plan, made: lock.Lock) -> Mapping[str, str]:
    facts = {
        name: made[name] for name in ("backend", "singbuild", "arch", "epoch", "tools", "pins")
    }
    return {name: _digest(value) for name, value in facts.items()} | {
        "keywords": _digest(dict(plan.source.keywords)),
        "code": backends.code_digest("singbuild", plan.backend.installed.entry.module),
    }


def _files(plan: Plan, made: lock.Lock) -> Mapping[str, str]:
    lines = [(item.source, item.destination) for item in plan.recipe.files]
    return {"%files": _digest(lines)} | dict(made["files"])


def _script(section: Section) -> str:
    return _digest([section.body(), section.interpreter, section.shell_options])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
