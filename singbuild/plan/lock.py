"""The lock: what exactly went into an image, as YAML; and what has drifted since.

It is written into every image, and beside the recipe by ``singbuild lock``::

    version: 1
    recipe:    {name: debian.def, sha256: …}
    arguments: {name: value}                    build arguments
    backend:   {name: debootstrap, distribution: singbuild, version: …}
    singbuild: …                                the version that resolved the inputs
    arch:      x86_64
    epoch:     1730419200                       later times become this one
    pins:      {…}                              what the backend's resolve hook said
    files:     {script.py: sha256:…}            what %files takes
    tools:     {debootstrap: 1.0.128}           versions of host programs
    writer:    tar2sqfs … 1.2.0, zstd level 7, …  of the image's file, where a program writes it
    stages:    {NAME: {backend: …, arch: …, epoch: …, pins: …, files: …, tools: …}}
                                                each earlier stage that is built
    packages:  {deb: {netbase: 6.4}}            in the finished image, where known
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from singbuild import __version__, command, variables
from singbuild.contract import Pins
from singbuild.errors import LockError, RecipeError, UsageError
from singbuild.packages import databases
from singbuild.packages.tree import DirectoryTree
from singbuild.plan.plan import Plan
from singbuild.recipe.files import matches
from singbuild.tree import host_files
from singbuild.tree.rootfs import Rootfs

VERSION = 1
LARGEST = 16 << 20  # characters
DEEPEST = 250  # mappings and lists, one in the other: PyYAML's composer in C calls itself for each
SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where PyYAML was built with libyaml
DEFAULT_EPOCH = 1478304000  # 2016-11-05, for sources that know no date of their own
HEADER = "# What went into {}, exactly. `singbuild --locked` refuses anything else.\n"

Lock = Mapping[str, Any]


@dataclass(frozen=True)
class LockFile:
    """A lock as read from a file, with its text, so that errors can name lines."""

    path: Path
    text: str
    lock: Lock


def beside(recipe: str) -> Path:
    """Return where the lock of a recipe is: ``debian.def`` has ``debian.lock.yaml``.

    Raises UsageError for a recipe from standard input, which is nowhere.
    """
    if recipe == "-":
        raise UsageError(
            "a recipe from standard input has no lock beside it",
            remedy="Write the recipe to a file; lock --output names a place for its lock.",
        )
    return Path(f"{recipe.removesuffix('.def')}.lock.yaml")


def shown_name(path: str) -> str:
    """Return a file's name as text on one line, whatever bytes it has."""
    return ascii(Path(path).name)[1:-1]


def make(plan: Plan, pins: Pins, locked: Lock | None = None) -> Lock:
    """Return the lock of a plan whose inputs are resolved. locked: the one to keep to, if any."""
    recipe, plugin = plan.recipe, plan.backend.installed
    return {
        "version": VERSION,
        "recipe": {
            "name": shown_name(recipe.path),
            "sha256": _sha256(recipe.text.encode()),
        },
        "arguments": {name: _plain(value) for name, value in recipe.arguments.items()},
        "backend": {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
        },
        "singbuild": __version__,
        "arch": plan.source.arch,
        "epoch": choose_epoch(pins, locked),
        "pins": _plain(pins),
        "files": dict(sorted(_files(plan))),
        "tools": {p.name: _tool_version(p.name) for p in plan.backend.needs.programs},
    }


def choose_epoch(pins: Pins, locked: Lock | None) -> int:
    """Return the time that later ones become, in seconds since 1970.

    SOURCE_DATE_EPOCH, else the lock's, else the source's, else a fixed one.
    Raises UsageError for a SOURCE_DATE_EPOCH that is no number.
    """
    date = variables.epoch()
    if date is not None:
        return date
    epoch = (locked or {}).get("epoch", pins.get("epoch"))
    if isinstance(epoch, int) and 0 < epoch <= variables.LAST_EPOCH:
        return epoch
    return DEFAULT_EPOCH


def dumped(lock: Lock, name: str) -> str:
    """Return a lock as the text of its file. name: the recipe's."""
    return HEADER.format(shown_name(name)) + yaml.safe_dump(dict(lock), sort_keys=False, width=100)


def read(path: Path) -> LockFile:
    """Read a lock. Raises LockError for a file that is none."""
    try:
        with path.open() as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise LockError(
            f"the lock {path} cannot be read",
            why=str(error.strerror),
            remedy="Make one with: singbuild lock RECIPE",
        ) from error
    except ValueError as error:
        raise LockError(f"the lock {path} is not valid YAML", why=str(error)) from error
    return parsed(path, text)


def parsed(path: Path, text: str) -> LockFile:
    """Return the lock that a text is. path: what it is called. Raises LockError."""
    try:
        lock = parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise LockError(f"the lock {path} is not valid YAML", why=str(error)) from error
    if not isinstance(lock, dict) or lock.get("version") != VERSION:
        raise LockError(
            f"{path} is not a lock of version {VERSION}",
            remedy="Make a new one with: singbuild lock RECIPE",
        )
    return LockFile(path, text, lock)


def parse(text: str, loader: Any = None) -> Any:
    """Return the values in a lock's text. loader: PyYAML's, for plain values by default.

    A lock has no anchors: aliases to aliases would stand for more than any memory holds. Nor is it
    nested deeply. Raises yaml.YAMLError, ValueError.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it has over {LARGEST:,} characters")
    depth = 0
    for event in yaml.parse(text, SAFE):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
    return yaml.load(text, loader or SAFE)  # noqa: S506 - a safe one, or one of texts alone


def installed_packages(rootfs: Rootfs) -> dict[str, dict[str, str]]:
    """Return the packages of a tree, by kind and name, as far as its databases tell: versions."""
    by_kind: dict[str, dict[str, str]] = {}
    for package in databases.software(DirectoryTree(rootfs)).packages:
        by_kind.setdefault(package.kind, {})[package.name] = package.version
    return by_kind


def check(wanted_lock: LockFile, now: Lock, parts: Iterable[str]) -> None:
    """Refuse any drift between a lock and what a build would take now.

    parts: the keys of the lock to compare. Raises LockError naming each input
    that drifted, with its line in the lock file.
    """
    drifted = [
        d
        for part in parts
        for d in _differences((part,), wanted_lock.lock.get(part), now.get(part))
    ]
    if drifted:
        numbers = _line_numbers(wanted_lock.text)
        lines = [
            f"{wanted_lock.path}:{_line(numbers, keys)}: {'.'.join(keys)}: "
            f"locked {_shown(old)}, now {_shown(new)}"
            for keys, old, new in drifted
        ]
        raise LockError(
            f"{len(drifted)} input{'s' * (len(drifted) > 1)} drifted from the lock",
            why="\n".join(lines),
            remedy="Restore the input, or accept the change with: singbuild lock RECIPE",
        )


def _differences(
    keys: tuple[str, ...], old: object, new: object
) -> Iterator[tuple[tuple[str, ...], object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=str):
            yield from _differences((*keys, str(key)), old.get(key), new.get(key))
    elif old != new:
        yield keys, old, new


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{value}"[:200]


def _line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """Return the line of each key in YAML text, from 1, by the keys that lead there."""
    numbers: dict[tuple[str, ...], int] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), yaml.compose(text, SAFE))]
    while waiting:
        above, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                keys = (*above, str(key.value))
                numbers[keys] = key.start_mark.line + 1
                waiting.append((keys, value))
    return numbers


def _line(numbers: Mapping[tuple[str, ...], int], keys: tuple[str, ...]) -> int:
    """Return the line of a key, or of the nearest key above it that is there; from 1."""
    nearest = (keys[:length] for length in range(len(keys), 0, -1))
    return next((numbers[each] for each in nearest if each in numbers), 1)


def _plain(value: Any) -> Any:
    """A value as YAML's safe types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _files(plan: Plan) -> Iterator[tuple[str, str]]:
    """The digest of every file that %files takes, by its name as the recipe reaches it.

    What a script on the host will make is not there yet, and not locked.
    """
    for item in plan.recipe.files:
        try:
            sources = [] if item.stage else matches(plan.recipe, item)
        except RecipeError:
            if not plan.recipe.may_make_files:
                raise
            sources = []
        for source in sources:
            yield source, host_files.digest(source)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tool_version(program: str) -> str:
    """The last word of the first line printed for --version; "" when there is none."""
    lines = command.version(program).splitlines()
    return lines[0].split()[-1] if lines and lines[0].strip() else ""
