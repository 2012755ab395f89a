"""Lists the packages that dnf would install, as dnf itself works them out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from singbuild import Source, SourceError, __version__
from singbuild.download import locked
from singbuild_yum.choice import Choice
from singbuild_yum.dnf import solve
from singbuild_yum.layout import Layout
from singbuild_yum.repository import Repository, inside, packages

Packages = dict[str, dict[str, Any]]


def cached_solution(
    choice: Choice, repositories: Sequence[Repository], source: Source, version: str
) -> Packages:
    """Return the answer of ``_solve``, from the cache where it has been asked before.

    It holds for one state of the repositories and one version of dnf.
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
    packages = _solve_locked(choice, repositories, source, key)
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
    choice: Choice, repositories: Sequence[Repository], source: Source, key: str
) -> Packages:
    """Solve in a directory of the cache; what a killed build left of it goes first."""
    where = source.cache / f"{key}.solving"
    with locked(source.cache / f"{key}.part", source.report, "the list of packages"):
        shutil.rmtree(where, ignore_errors=True)
        try:
            return _solve(choice, repositories, Layout(where))
        finally:
            shutil.rmtree(where, ignore_errors=True)


def _solve(choice: Choice, repositories: Sequence[Repository], layout: Layout) -> Packages:
    """Return the packages by NEVRA: name, version, arch, repository, file, sha256, size in bytes.

    dnf tells them by name, arch, version and repository. Its table breaks lines as it
    likes, so every four words in a row are looked up.
    """
    # Nothing is installed here, so nothing needs a signature yet.
    wishes = {**asdict(choice), "setopt": choice.options, "gpgcheck": False}
    layout.write(repositories, wishes, {}, ())
    index = {
        (p["name"], p["arch"], p["version"], p["repository"]): p
        for repository in repositories
        for p in packages(repository)
    }
    words = solve(layout, wishes, layout.where / "root", {key[0] for key in index})
    rows = zip(words, words[1:], words[2:], words[3:], strict=False)
    chosen = [index[row] for row in rows if row in index]
    if not chosen:
        raise SourceError("dnf names no package that the repositories have", why=" ".join(words))
    for package in chosen:
        inside(package["file"])
    return {f"{p['name']}-{p['version']}.{p['arch']}": p for p in sorted(chosen, key=_nevra)}


def _nevra(package: dict[str, Any]) -> tuple[str, ...]:
    return package["name"], package["version"], package["arch"]
