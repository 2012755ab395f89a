"""Lists the packages that debootstrap installs, as debootstrap itself works them out.

The suite's script names where to begin; dependencies are followed as its function
resolve_deps does it: the first alternative, without regard to versions, and names
that no package has (virtual ones) are left out. The index of a suite is consistent.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from debian.deb822 import Deb822

from singbuild import RecipeKeyError, SourceError, __version__
from singbuild_debootstrap.archive import Archive
from singbuild_debootstrap.choice import Choice, ask, script

Packages = dict[str, dict[str, Any]]

# Deb822 takes 3.7 s for the 66,550 paragraphs of bookworm's main, this 0.1 s: it reads only those
# of chosen packages.
NAME = re.compile(r"^Package: *(\S+)", re.M)
PRIORITY = re.compile(r"^Priority: *(required|important)$", re.M)


def cached_selection(choice: Choice, archive: Archive, cache: Path) -> Packages:
    """Return the answer of ``select``; the cache has one for each state of an archive."""
    key_parts = [__version__, *map(str, astuple(choice)), archive.identity, script(choice.suite)]
    key = hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()
    file = cache / f"{key}.packages.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        packages: Packages = json.loads(file.read_text())
        if are_pins(packages):
            return packages
    packages = select(choice, archive)
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(packages))
    part.rename(file)
    return packages


def are_pins(value: object) -> bool:
    """Whether a value from a file has the form of ``Packages``; such a file may be damaged."""
    pins = list(value.values()) if isinstance(value, dict) else [None]
    return all(
        isinstance(pin, dict)
        and isinstance(pin.get("size"), int)
        and all(isinstance(pin.get(key), str) for key in ("version", "sha256", "file", "priority"))
        for pin in pins
    )


def select(choice: Choice, archive: Archive) -> Packages:
    """Return the packages by name: version, sha256, size in bytes, file, priority.

    Raises RecipeKeyError for one that the recipe includes and the archive lacks, SourceError.
    """
    index = _read(archive.read_indices())
    begin = _begin(choice, archive, index)
    include = [*begin["base"], *choice.include]
    skipped = set(begin["excluded"])
    names = _with_dependencies(begin["required"], index, skipped)
    names |= _with_dependencies(include, index, skipped)
    _check_known(choice, names, index)
    try:
        return {name: _pin(index[name]) for name in sorted(names)}
    except (KeyError, ValueError) as error:
        raise SourceError(
            f"{choice.mirror}: has an index that makes no sense", why=f"{error!r}"
        ) from error


def _read(indices: Iterable[str]) -> dict[str, str]:
    """Return each package's paragraph: of two in an index the last, of two indices the first's."""
    fields: dict[str, str] = {}
    for text in indices:
        one = {m[1]: stanza for stanza in text.split("\n\n") if (m := NAME.search(stanza))}
        fields = one | fields
    return fields


def _begin(choice: Choice, archive: Archive, index: Mapping[str, str]) -> dict[str, list[str]]:
    priorities: dict[str, list[str]] = {"required": [], "important": []}
    for name, stanza in index.items():
        if priority := PRIORITY.search(stanza):
            priorities[priority[1]].append(name)
    return ask(
        choice.suite,
        choice.arch,
        choice.variant,
        CODENAME=archive.codename,
        MIRRORS=choice.mirror,
        REQUIRED=" ".join(priorities["required"]),
        IMPORTANT=" ".join(priorities["important"]),
    )


def _with_dependencies(
    begin: Iterable[str], index: Mapping[str, str], skipped: set[str]
) -> set[str]:
    names: set[str] = set()
    waiting = list(begin)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            if name in index:
                waiting += [d for d in _depends(index[name]) if d in index and d not in skipped]
    return names


def _depends(stanza: str) -> Iterable[str]:
    fields = Deb822(stanza)
    for field in ("Pre-Depends", "Depends"):
        for relation in fields.get(field, "").split(","):
            if name := re.match(r"\s*([^\s|(:\[]+)", relation):
                yield name[1]


def _check_known(choice: Choice, names: set[str], index: Mapping[str, str]) -> None:
    for name in choice.include:
        if name not in index:
            near = difflib.get_close_matches(name, index, n=3, cutoff=0.8)
            where = f"{choice.suite} ({', '.join(choice.components)})"
            remedy = (
                f"Did you mean {' or '.join(near)}?" if near else "It may be in another component."
            )
            raise RecipeKeyError("Include", f"Include: {where} has no {name!r}", remedy=remedy)
    if missing := sorted(names - index.keys()):
        raise SourceError(f"{choice.mirror}: lacks packages that {choice.suite} needs: {missing}")


def _pin(stanza: str) -> dict[str, Any]:
    fields = Deb822(stanza)
    return {
        "version": fields["Version"],
        "sha256": fields["SHA256"],
        "size": int(fields["Size"]),
        "file": fields["Filename"],
        "priority": fields.get("Priority", "optional"),
    }
