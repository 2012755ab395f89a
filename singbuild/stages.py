"""Which states of a build are worth keeping, and what went into each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from singbuild import lock
from singbuild.cache import Stage
from singbuild.plan import Plan
from singbuild.recipe import Section


def cacheable(plan: Plan, made: lock.Lock) -> dict[str, Stage]:
    """Return the stages of a build in order, each under the key of the one before.

    With %setup, only the bootstrap is kept: what a script on the host reads cannot be known.
    """
    inputs = {"bootstrap": _bootstrap(plan, made)}
    sections = plan.recipe.sections
    if "setup" not in sections:
        if "files" in sections:
            inputs["files"] = _files(plan, made)
        if "post" in sections:
            inputs["post"] = {"%post": _script(sections["post"])}
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
        "keywords": _digest(dict(plan.source.keywords))
    }


def _files(plan: Plan, made: lock.Lock) -> Mapping[str, str]:
    lines = [(item.source, item.destination) for item in plan.recipe.files]
    return {"%files": _digest(lines)} | dict(made["files"])


def _script(section: Section) -> str:
    return _digest([section.body(), section.interpreter, section.shell_options])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
