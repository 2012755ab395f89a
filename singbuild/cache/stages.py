"""Brings the tree to the state after %post, stage by stage, from the latest one that is cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from singbuild.backends import loading
from singbuild.cache import store
from singbuild.cache.store import Stage
from singbuild.console.display import Console
from singbuild.plan import lock
from singbuild.plan.plan import Plan
from singbuild.recipe.grammar import Section
from singbuild.tree import secrets, sections
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.secrets import Secret
from singbuild.tree.sections import Given

STEPS = ("bootstrap", "setup", "files", "post", "test")
SAID = ("environment", "runscript", "labels", "help")  # what is written into the tree before %test


def fill(
    rootfs: Rootfs,
    plan: Plan,
    arguments: dict[str, Any],
    made: lock.Lock,
    work: Path,
    console: Console,
    kept: Mapping[str, Stage],
    given: Given,
    begin: str = "",
) -> None:
    """Do the bootstrap, %setup, %files and %post of a plan on an empty tree.

    arguments: of the backend's hooks; work: the scratch directory; kept: the stages to
    take from the cache or to keep there, by name; given: to the sections; begin: the step to
    begin with, on a tree that is as it was left before. Raises what the backend and the sections
    raise.
    """
    steps: dict[str, Callable[[], object]] = {
        "bootstrap": lambda: plan.backend.call("singbuild_bootstrap", **arguments),
        "setup": lambda: sections.setup(plan.recipe, rootfs, work, given),
        "files": lambda: sections.files(plan.recipe, rootfs),
        "post": lambda: sections.post(plan.recipe, rootfs, given),
    }
    waiting = [name for name in steps if plan.reason(name)]
    if begin:
        waiting = [name for name in waiting if STEPS.index(name) >= STEPS.index(begin)]
    elif hit := _restored(kept, rootfs, console):
        waiting = waiting[waiting.index(hit) + 1 :]
    for name in waiting:
        console.phase(name, plan.reason(name))
        steps[name]()
        if name in kept:
            secrets.check_absent(rootfs.root, given.secrets if name == "post" else ())
            store.store(kept[name], rootfs, made["epoch"], console)


def _restored(kept: Mapping[str, Stage], rootfs: Rootfs, console: Console) -> str:
    """Fill the tree from the latest stage that is cached, and return its name, or ""."""
    for name in [name for name in reversed([*kept]) if name != "image"]:
        if entry := store.find(kept[name], console):
            rootfs.restore(entry.path, entry.source)
            return name
    return ""


def cacheable(
    plan: Plan, made: lock.Lock, finish: Mapping[str, str], given: Sequence[Secret] = ()
) -> dict[str, Stage]:
    """Return the stages of a build in order, each under the key of the one before.

    The last one, "image", is the finished image. finish: what else has a say in it; given:
    the secrets of %post, of which only the names count.
    With %setup, only the bootstrap is kept: what a script on the host reads cannot be known.
    """
    inputs = _inputs(plan, made, given)
    if "setup" in inputs:
        inputs = {"bootstrap": inputs["bootstrap"]}
    else:
        inputs["image"] = {"recipe": _digest([Path(plan.recipe.path).name, plan.recipe.text])} | {
            name: _digest(value) for name, value in (*finish.items(), *made.items())
        }
    stages: dict[str, Stage] = {}
    parent = ""
    for name, facts in inputs.items():
        stages[name] = Stage(name, plan.recipe.path, facts, parent)
        parent = stages[name].key
    return stages


def before(plan: Plan, made: lock.Lock, given: Sequence[Secret], section: str) -> dict[str, str]:
    """Return what goes into the tree before a section, name to digest."""
    steps = [name for name in STEPS if STEPS.index(name) < STEPS.index(section)]
    found = _inputs(plan, made, given)
    facts = {key: value for name in steps for key, value in found.get(name, {}).items()}
    if section == "test":
        said = {name: plan.recipe.sections.get(name) for name in SAID}
        facts |= {f"%{name}": _script(part) for name, part in said.items() if part}
    return facts


def _inputs(plan: Plan, made: lock.Lock, given: Sequence[Secret]) -> dict[str, dict[str, str]]:
    """Return what each step of a plan adds to what went in, in their order."""
    inputs = {"bootstrap": _bootstrap(plan, made)}
    sections = plan.recipe.sections
    if "setup" in sections:
        inputs["setup"] = {"%setup": _script(sections["setup"])}
    if "files" in sections:
        inputs["files"] = _files(plan, made)
    if "post" in sections:
        inputs["post"] = {"%post": _script(sections["post"])}
        if given:
            inputs["post"]["secrets"] = _digest(sorted(secret.name for secret in given))
    return inputs


def _bootstrap(plan: Plan, made: lock.Lock) -> dict[str, str]:
    facts = {
        name: made[name] for name in ("backend", "singbuild", "arch", "epoch", "tools", "pins")
    }
    return {name: _digest(value) for name, value in facts.items()} | {
        "keywords": _digest(dict(plan.source.keywords)),
        "code": loading.code_digest("singbuild", plan.backend.installed.entry.module),
    }


def _files(plan: Plan, made: lock.Lock) -> dict[str, str]:
    lines = [(item.source, item.destination) for item in plan.recipe.files]
    return {"%files": _digest(lines)} | dict(made["files"])


def _script(section: Section) -> str:
    return _digest([section.body(), section.interpreter, section.shell_options])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
