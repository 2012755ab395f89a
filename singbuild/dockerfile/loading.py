"""From a Dockerfile to a recipe of several stages: each FROM begins one.

What depends on the base image's own configuration (most variables, ONBUILD) is found out later,
by ``evaluation``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from singbuild.dockerfile import reader, variables
from singbuild.errors import RecipeError, UsageError
from singbuild.recipe import grammar
from singbuild.recipe.recipe import SCRATCH, Header, Instruction, Recipe
from singbuild.recipe.text import Text, did_you_mean, printable, read

NAME = re.compile(r"(.*[.])?(dockerfile|containerfile)([.].*)?", re.IGNORECASE)
_FIRST = re.compile(r"\s*(FROM|ARG)\s+[^\s:]", re.IGNORECASE)
_INSTRUCTION = re.compile(rf"({'|'.join(reader.KEYWORDS)})\s+[^\s:]")
_DEFINITION = re.compile(r"%[A-Za-z]|\s*[A-Za-z][\w-]*\s*:(\s|$)")  # a section, a key
_FROM = re.compile(r"(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_ALIAS = re.compile(r"[a-z][a-z0-9_.-]*")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}  # Go's names
ARCHITECTURES = {name: machine for machine, name in MACHINES.items()}  # and back


def load(path: str, *, build_args: Sequence[str] = (), target: str = "", **more: Any) -> Recipe:
    """Read a recipe of either kind: a Dockerfile by its name or first instruction.

    target: the stage that becomes the image, by name or number, the last without one; more: as
    ``grammar.load`` takes it, for a definition file. Raises RecipeError, UsageError.
    """
    source = read(path)
    if not is_dockerfile(source):
        if target:
            raise UsageError(
                "--target is of Dockerfiles",
                remedy="A definition file's image is its last stage: build a copy that ends there.",
            )
        return grammar.load(path, build_args=build_args, source=source, **more)
    if more.get("values"):
        raise UsageError("a Dockerfile takes no --values", remedy="Use --build-arg NAME=VALUE.")
    file = more.get("build_arg_file")
    return parse(source, _arguments(build_args, file), target)


def is_dockerfile(source: Text) -> bool:
    """Whether a text is a Dockerfile: by its name, its first instruction, or any instruction.

    The last is for one whose first line has a typing error: no line of it is a definition file's.
    """
    if NAME.fullmatch(PurePath(source.path).name):
        return True
    lines = [line for line in source.lines if line.strip() and not line.lstrip().startswith("#")]
    if lines and _FIRST.match(lines[0]):
        return True
    return any(map(_INSTRUCTION.match, lines)) and not any(map(_DEFINITION.match, lines))


def parse(source: Text, arguments: Mapping[str, str], target: str = "") -> Recipe:
    """Return the recipe of a Dockerfile.

    arguments: what ``--build-arg`` gives; target: as ``load`` takes it. Raises UsageError.
    """
    return _Parser(source, arguments).recipe(target)


def platform_variables(arch: str) -> dict[str, str]:
    """Return the ARGs that are always there. arch: of the image, as ``uname -m`` has it."""
    variables: dict[str, str] = {}
    for prefix, machine in (("BUILD", os.uname().machine), ("TARGET", arch or os.uname().machine)):
        name = MACHINES.get(machine, machine)
        variant = "v7" if name == "arm" else ""
        variables |= {
            f"{prefix}PLATFORM": f"linux/{name}{'/' * bool(variant)}{variant}",
            f"{prefix}OS": "linux",
            f"{prefix}ARCH": name,
            f"{prefix}VARIANT": variant,
        }
    return variables


def _arguments(words: Sequence[str], file: Path | None) -> dict[str, str]:
    """Return the values of --build-arg; a name alone has the value of the caller's variable.

    Raises RecipeError for a file that is no text.
    """
    lines = [*read(str(file)).lines] if file else []
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    by_name: dict[str, str] = {}
    for word in (*lines, *words):
        name, sign, value = word.strip().partition("=")
        if sign or name in os.environ:
            by_name[name] = value if sign else os.environ[name]
    return by_name


class _Parser:
    """Reads one Dockerfile."""

    def __init__(self, source: Text, arguments: Mapping[str, str]) -> None:
        self._source, self._arguments = source, arguments
        self._global = variables.Values(platform_variables(""))
        self._stages: list[Recipe] = []
        self._by_name: dict[str, Recipe] = {}  # the same, with images that are copied from
        self._escape = reader.escape(source)
        self._names: dict[str, str] = {}  # as instructions write them, to those of the stages
        self._mentioned: set[str] = set()  # words that may be names
        self._count = 0

    def recipe(self, target: str = "") -> Recipe:
        """Return the last stage, or the target, with those before it."""
        rows = reader.instructions(self._source)
        self._mentioned = set(_possible_names(rows))
        groups = list(self._groups(rows))
        if not groups:
            raise self._source.error(
                0, 0, "the Dockerfile has no FROM", remedy="Begin it with FROM IMAGE."
            )
        for opening, instructions in groups:
            self._stage(opening, instructions)
            if target and self._names.get(target.lower(), target) == self._stages[-1].stage:
                break
        else:
            if target:
                names = [stage.stage for stage in self._stages]
                raise UsageError(
                    f"--target {printable(target, keep=40)}: the Dockerfile has no such stage",
                    why=f"It has: {', '.join(names)}.",
                    remedy=did_you_mean(target, {*names}) or "Name one of these, or its number.",
                )
        last = self._stages.pop()
        return replace(last, stages=tuple(self._stages))

    def _groups(self, rows: list[Instruction]) -> Iterator[tuple[Instruction, list[Instruction]]]:
        """Yield each FROM with the instructions after it; take up the ARGs before the first."""
        at = 0
        while at < len(rows) and rows[at].keyword != "FROM":
            if rows[at].keyword != "ARG":
                raise self._error(
                    rows[at],
                    f"{rows[at].keyword} comes before FROM",
                    remedy="Move it behind a FROM.",
                )
            self._global |= {
                name: value
                for name, default in self._declared(rows[at])
                if (value := self._arguments.get(name, default)) is not None
            }
            at += 1
        while at < len(rows):
            end = next((n for n in range(at + 1, len(rows)) if rows[n].keyword == "FROM"), None)
            yield rows[at], rows[at + 1 : end]
            at = end if end is not None else len(rows)

    def _declared(self, each: Instruction) -> list[tuple[str, str | None]]:
        try:
            return arguments_of(each.rest, self._global, self._escape)
        except variables.MalformedError as error:
            raise self._error(each, str(error)) from error

    def _stage(self, opening: Instruction, instructions: list[Instruction]) -> None:
        rest = self._filled(opening, opening.rest)
        match = _FROM.fullmatch(rest)
        if not match:
            remedy = "Write FROM IMAGE, or FROM IMAGE AS NAME."
            raise self._error(opening, "FROM has an image, and perhaps a name", remedy=remedy)
        image, alias = match[1], (match[2] or "").lower()
        is_name = _ALIAS.fullmatch(alias) and alias != SCRATCH and alias not in self._by_name
        if alias and not is_name:
            raise self._error(
                opening,
                f"{printable(alias, keep=40)} is no name for a stage, or that of another",
                remedy="Write a name of small letters, digits, dots, hyphens, underscores.",
            )
        base = self._names.get(image.lower(), "")
        if image.lower() == SCRATCH:
            base = SCRATCH
        platform = self._filled(opening, opening.flag("platform"))
        parent = self._by_name.get(base)
        name, self._count = alias or self._name_of(self._count), self._count + 1
        for key in filter(None, (alias, str(self._count - 1))):
            self._names[key] = name
        used: list[str] = []
        changed = tuple(self._with_stages(each, used) for each in instructions)
        if name in used:
            raise self._error(opening, f"the stage {name} reads itself", remedy="Name another.")
        self._add(
            Recipe(
                path=self._source.path,
                source=self._source,
                headers=_headers(opening, parent.header("from").value if parent else image, name),  # type: ignore[union-attr]
                sections=MappingProxyType({}),
                files=(),
                labels=(),
                arguments=MappingProxyType(self._arguments),
                is_dockerfile=True,
                instructions=changed,
                base=base,
                uses=tuple(dict.fromkeys(used)),
                platform=parent.platform if parent else self._machine(opening, platform),
                globals=MappingProxyType(self._global.maps[0]),
            )
        )

    def _add(self, stage: Recipe) -> None:
        self._stages.append(stage)
        self._by_name.setdefault(stage.stage, stage)

    def _name_of(self, number: int) -> str:
        """Return a name for a stage without one, which no instruction means."""
        name = f"stage-{number}"
        while name in self._mentioned or name in self._by_name:
            name += "-"
        return name

    def _with_stages(self, each: Instruction, used: list[str]) -> Instruction:
        """Make stages of what --from and mounts name, images too. used: gets their names."""
        flags = []
        for name, value in each.flags:
            if name == "from" and each.keyword in ("COPY", "ADD"):
                value = self._source_of(each, self._filled(each, value), used)
            elif name == "mount":
                parts = [part.partition("=") for part in value.split(",")]
                value = ",".join(
                    f"from={self._source_of(each, self._filled(each, text), used)}"
                    if key == "from"
                    else key + sign + text
                    for key, sign, text in parts
                )
            flags.append((name, value))
        return replace(each, flags=tuple(flags))

    def _source_of(self, each: Instruction, name: str, used: list[str]) -> str:
        stage = self._names.get(name.lower(), name)
        if stage == SCRATCH or not re.fullmatch(r"[^\s,]+", stage):
            raise self._error(
                each,
                f"{each.keyword} from {name or 'an empty name'}: nothing is there",
                remedy="Name a stage or an image, or leave it out to read the context.",
            )
        if name.lower() not in self._names and stage not in self._by_name:
            if name.isdecimal():
                raise self._error(each, f"there is no stage {name} before this one")
            # As a stage of a definition file it is filled, and executes no trigger.
            self._add(
                Recipe(
                    path=self._source.path,
                    source=self._source,
                    headers=_headers(each, name, name),
                    sections=MappingProxyType({}),
                    files=(),
                    labels=(),
                )
            )
        used.append(stage)
        return stage

    def _machine(self, opening: Instruction, platform: str) -> str:
        """Return a platform's machine as ``uname -m`` has it, "" for none."""
        system, _, rest = platform.lower().partition("/")
        if not platform or (not rest and system == "linux"):
            return ""
        name = (rest or system).partition("/")[0]
        if (rest and system != "linux") or name not in (*ARCHITECTURES, *MACHINES):
            raise self._error(
                opening,
                f"--platform={printable(platform, keep=40)}: there are no images for it here",
                remedy=f"Write linux/ and one of {', '.join(ARCHITECTURES)}.",
            )
        return ARCHITECTURES.get(name, name)

    def _filled(self, each: Instruction, text: str) -> str:
        try:
            return variables.filled(text, self._global, self._escape)
        except variables.MalformedError as error:
            raise self._error(each, str(error)) from error

    def _error(self, each: Instruction, what: str, *, remedy: str = "") -> RecipeError:
        return reader.error(self._source, each, what, remedy=remedy)


def _possible_names(rows: Sequence[Instruction]) -> Iterator[str]:
    """Yield the words, in small letters, that may be names of stages or images."""
    for each in rows:
        if each.keyword == "FROM":
            yield from each.rest.lower().split()
        for _, value in each.flags:
            yield from re.split("[=,]", value.lower())


def arguments_of(rest: str, values: Mapping[str, str], escape: str) -> list[tuple[str, str | None]]:
    """Return the names that an ARG declares, with their defaults; None for none."""
    arguments: list[tuple[str, str | None]] = []
    for word in variables.raw_words(rest, escape):
        name, sign, value = word.partition("=")
        arguments.append((name, variables.filled(value, values, escape) if sign else None))
    return arguments


def _headers(opening: Instruction, image: str, name: str) -> tuple[Header, ...]:
    def header(key: str, value: str) -> Header:
        column = opening.text.find(value) + 1
        return Header(key, value, opening.line, 1, column, opening.text, (opening.line,))

    return (header("Bootstrap", "docker"), header("From", image), header("Stage", name))
