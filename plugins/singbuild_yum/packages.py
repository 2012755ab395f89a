"""Lists the packages that dnf or zypper would install, as it itself works them out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from singbuild import Source, SourceError, __version__
from singbuild.download import locked
from singbuild_yum.choice import Choice
from singbuild_yum.layout import Layout
from singbuild_yum.repository import Repository, inside, packages

Packages = dict[str, dict[str, Any]]
Row = tuple[str, str, str, str]
"""A package as a solver tells it: name, architecture, version, repository, which may be empty."""
Solver = Callable[[Layout, Mapping[str, Any], Path, Iterable[str]], Sequence[Row]]


def cached_solution(
    choice: Choice,
    repositories: Sequence[Repository],
    source: Source,
    version: str,
    solver: Solver,
) -> Packages:
    """Return the answer of ``_solve``, from the cache where it has been asked before.

    It holds for one state of the repositories and one version of the solver.
    Raises RecipeKeyError, SourceError, HostError.
    """
    states = [repository.identity for repository in repositories]
    key_parts = [__version__, asdict(choice), states, version]
    key = hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()
    file = source.cache / f"{key}.packages.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        packages: Packages = json.loads(file.read_text())
        if are_pins(packages):
            return packages
    packages = _solve_locked(choice, repositories, source, key, solver)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(packages))
    part.rename(file)
    return packages


def are_pins(value: object) -> bool:
    """Whether a value from a file has the form of ``Packages``; such a file may be damaged."""
    pins = list(value.values()) if isinstance(value, dict) else [None]
    texts = ("name", "version", "arch", "repository", "file", "sha256")
    return all(
        isinstance(pin, dict)
        and isinstance(pin.get("size"), int)
        and all(isinstance(pin.get(key), str) for key in texts)
        for pin in pins
    )


def _solve_locked(
    choice: Choice, repositories: Sequence[Repository], source: Source, key: str, solver: Solver
) -> Packages:
    """Solve in a directory of the cache; what a killed build left of it goes first."""
    where = source.cache / f"{key}.solving"
    with locked(source.cache / f"{key}.part", source.report, "the list of packages"):
        shutil.rmtree(where, ignore_errors=True)
        try:
            return _solve(choice, repositories, Layout(where), solver)
        finally:
            shutil.rmtree(where, ignore_errors=True)


def _solve(
    choice: Choice, repositories: Sequence[Repository], layout: Layout, solver: Solver
) -> Packages:
    """Return name, version, arch, repository, file, sha256, size in bytes of each, by NEVRA."""
    # Nothing is installed here, so nothing needs a signature yet.
    wishes = {**asdict(choice), "setopt": choice.options, "gpgcheck": False}
    layout.write(repositories, wishes, {}, ())
    index = {
        (p["name"], p["arch"], p["version"], p["repository"]): p
        for repository in repositories
        for p in packages(repository)
    }
    # Where a solver names no repository, the first that has the package is meant: copies are alike.
    for key, package in [*index.items()]:
        index.setdefault((*key[:3], ""), package)
    rows = solver(layout, wishes, layout.where / "root", {key[0] for key in index})
    selection = [index[row] for row in rows if row in index]
    if not selection:
        why = "\n".join(" ".join(row) for row in rows)
        raise SourceError("no package that would be installed is in the repositories", why=why)
    for package in selection:
        inside(package["file"])
    return {f"{p['name']}-{p['version']}.{p['arch']}": p for p in sorted(selection, key=_nevra)}


def _nevra(package: dict[str, Any]) -> tuple[str, ...]:
    return package["name"], package["version"], package["arch"]
