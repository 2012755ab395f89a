"""What a recipe says, as frozen values. Knows nothing of how they were read."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile, takewhile
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from singbuild.errors import RecipeError
from singbuild.recipe.text import Text, did_you_mean, printable

STAGE = "stage"
"""The header key that names a stage; no backend sees it."""
SCRATCH = "scratch"
"""What an empty tree is called in Dockerfiles."""
ON_THE_HOST = ("setup", "pre")
"""Sections that are executed outside the image, as the user who builds."""
SHELLS = ("sh", "ash", "bash", "dash", "ksh", "mksh", "zsh")
STOPS = re.compile("(python|perl|ruby|node|lua|Rscript)[0-9.]*")
"""Interpreters of scripts that end at an error unless the script says otherwise."""


@dataclass(frozen=True)
class Header:
    """One header key and its value.

    name: as written. line, column: of the key; value_column: of the value; text: the line.
    lines: every line that gave a part of the value, for keys that may be repeated.
    """

    name: str
    value: str
    line: int
    column: int
    value_column: int
    text: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """One line of a section; number: in the recipe, from 1."""

    text: str
    number: int


@dataclass(frozen=True)
class Section:
    """A section's lines. A section given twice has two parts.

    line: where it begins; places: where each part begins.
    """

    name: str
    arguments: tuple[str, ...]
    parts: tuple[tuple[Line, ...], ...]
    line: int
    places: tuple[int, ...] = ()

    def split(self) -> tuple["Section", ...]:
        """Return each part that says something as a section of its own, of the same program."""
        program = self.interpreter
        words = self.arguments if "-c" in self.arguments or not program else ("-c", program)
        return tuple(
            replace(self, arguments=words, parts=(part,), line=line, places=(line,))
            for part, line in zip(self.parts, self.places, strict=True)
            if any(each.text.strip() for each in part)
        )

    def joined(self, other: "Section") -> "Section":
        """Return both as one section of two parts."""
        parts, places = self.parts + other.parts, self.places + other.places
        return replace(self, parts=parts, places=places)

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, as written."""
        return tuple(line for part in self.parts for line in part)

    def body(self) -> str:
        """Join the lines as written; "" for none."""
        return "".join(f"{line.text}\n" for line in self.lines)

    def script(self) -> str:
        """Join the lines behind blank ones, so that a shell's line numbers are the recipe's.

        Where a template left lines out or repeated some, ``recipe_line`` still knows.
        """
        return "".join(f"{line.text}\n" for line in self._padded())

    def recipe_line(self, script_line: int) -> int:
        """Return the recipe's line for a line of ``script()``; 0 when it has none."""
        padded = self._padded()
        return padded[script_line - 1].number if 0 < script_line <= len(padded) else 0

    def executable(self, *flags: str) -> str:
        """Make a program of the lines, its first line ``#!`` and the interpreter.

        flags: for a shell, before the section's own.
        """
        lines = [line.text for line in self.lines]
        while lines and not lines[0].strip():
            lines.pop(0)
        if lines and lines[0].lstrip().startswith("#!"):
            lines.pop(0)
        return "".join(f"{line}\n" for line in [*self._first_lines(flags), *lines])

    def _first_lines(self, flags: Sequence[str]) -> list[str]:
        program = "#!" + (self.interpreter or "/bin/sh")
        words = [*(flags if self.is_shell else ()), *self.shell_options]
        options = shlex.join(words)
        # The kernel hands everything behind the program over as one word: execve(2).
        if " " in program or len(words) > 1:
            return [program, f"set {options}"] if options else [program]
        return [f"{program} {options}".rstrip()]

    @property
    def interpreter(self) -> str:
        """``PROGRAM`` of ``-c PROGRAM``, else what follows ``#!`` in the first line, else ""."""
        if "-c" in self.arguments:
            return " ".join(self._command())
        first = next((line.text.strip() for line in self.lines if line.text.strip()), "")
        return first[2:].strip() if first.startswith("#!") else ""

    @property
    def shell_options(self) -> tuple[str, ...]:
        """The section's arguments without ``-c PROGRAM`` and the words that belong to it."""
        if "-c" not in self.arguments:
            return self.arguments
        at = self.arguments.index("-c")
        return self.arguments[:at] + self.arguments[at + 1 + len(self._command()) :]

    def _command(self) -> list[str]:
        """Return the words of ``-c PROGRAM WORD…``; the first one that is an option ends them."""
        script = self.arguments[self.arguments.index("-c") + 1 :]
        return [script[0], *takewhile(lambda word: not word.startswith(("-", "+")), script[1:])]

    @property
    def program(self) -> str:
        """The name of the program that reads the lines, which env or busybox may have to find."""
        words = (self.interpreter or "/bin/sh").split()
        while len(words) > 1 and PurePosixPath(words[0]).name in ("env", "busybox"):
            words = [*dropwhile(lambda word: word.startswith("-") or "=" in word, words[1:])]
        return PurePosixPath(words[0]).name if words else ""

    @property
    def is_shell(self) -> bool:
        """Whether a shell of POSIX's kind reads the lines; then ``-e`` stops it where one fails."""
        return self.program in SHELLS

    @property
    def may_go_on(self) -> bool:
        """Whether nothing is known to stop the script where a command fails."""
        return not (self.is_shell or STOPS.fullmatch(self.program))

    def _padded(self) -> list[Line]:
        padded: list[Line] = []
        for part in filter(None, self.parts):
            padded += [Line("", 0)] * (part[0].number - 1 - len(padded))
            padded += part
        return padded


class Label(NamedTuple):
    """One line of %labels."""

    key: str
    value: str
    line: int


@dataclass(frozen=True)
class CopyItem:
    """One line of %files. destination "": the source's own path. Globs are not expanded here.

    stage: whose tree has the source; "" for the host.
    """

    source: str
    destination: str
    line: int
    stage: str = ""


@dataclass(frozen=True)
class Document:
    """A here-document of a Dockerfile. literal: nothing in it is replaced; stripped: of tabs."""

    name: str
    text: str
    literal: bool = False
    stripped: bool = False


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile.

    keyword: in capitals; rest: what follows the flags; text: all, continued lines joined.
    """

    keyword: str
    rest: str
    line: int
    text: str
    flags: tuple[tuple[str, str], ...] = ()
    documents: tuple[Document, ...] = ()

    def flag(self, name: str) -> str:
        """Return the value of a flag, "" without it."""
        return next((value for key, value in self.flags if key == name), "")

    def values(self, name: str) -> list[str]:
        """Return all values of a flag."""
        return [value for key, value in self.flags if key == name]


@dataclass(frozen=True)
class App:
    """What a recipe says of one of its apps. sections: by name, without "app" before it."""

    name: str
    sections: Mapping[str, Section]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, checked as far as its text alone can be.

    path: as the user named it. source: the text that was parsed, after rendering; its
    own path says ``(rendered)`` when the template's lines are unknown.
    headers: in the recipe's order. sections: by name, in small letters. files: of apps too.
    stages: those before this one, which is the last in the file.

    Of a Dockerfile: instructions: those of this stage; base: the stage that it begins with, or
    SCRATCH; uses: the other stages whose trees it reads; platform: the machine of
    ``FROM --platform``; globals: the values of the ARGs before the first FROM.
    arguments: the template's values; empty when the text was taken literally.
    warnings: what looks like a slip, though it is allowed.
    """

    path: str
    source: Text
    headers: tuple[Header, ...]
    sections: Mapping[str, Section]
    files: tuple[CopyItem, ...]
    labels: tuple[Label, ...]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    stages: tuple["Recipe", ...] = ()
    is_dockerfile: bool = False
    instructions: tuple[Instruction, ...] = ()
    base: str = ""
    uses: tuple[str, ...] = ()
    platform: str = ""
    globals: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    apps: tuple[App, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The value of the ``Stage`` key, "" without one."""
        header = self.header(STAGE)
        return header.value if header else ""

    @property
    def needed(self) -> tuple["Recipe", ...]:
        """The stages that this one copies from, and those that they copy from, in their order."""
        names, needed = set(self.sources), []
        for stage in reversed(self.stages):
            if stage.stage in names:
                needed.append(stage)
                names |= {*stage.sources}
        return tuple(reversed(needed))

    @property
    def sources(self) -> tuple[str, ...]:
        """The stages whose trees this one reads."""
        names = (self.base, *(item.stage for item in self.files), *self.uses)
        return tuple(dict.fromkeys(name for name in names if name not in ("", SCRATCH)))

    @property
    def text(self) -> str:
        """The recipe as it was parsed: after rendering, with Unix line ends."""
        return self.source.text

    @property
    def bootstrap(self) -> str:
        """The value of the ``Bootstrap`` key."""
        return next(h.value for h in self.headers if h.name.lower() == "bootstrap")

    @property
    def may_make_files(self) -> bool:
        """Whether a script on the host may make what %files names, which so need not be there."""
        return bool({*ON_THE_HOST} & self.sections.keys())

    def header(self, name: str) -> Header | None:
        """Find the header key ``name``, in any case."""
        return next((h for h in self.headers if h.name.lower() == name.lower()), None)

    def line(self, number: int) -> str:
        """Return a line as the user wrote it, before rendering."""
        return (self.source.template or self.source.text).split("\n")[number - 1]

    def error(
        self, header: Header, what: str, *, column: int = 0, why: str = "", remedy: str = ""
    ) -> RecipeError:
        """Make an error at a header's value, or at ``column``."""
        return RecipeError(
            printable(self.source.path, keep=4096),
            header.line,
            column or header.value_column,
            printable(header.text),
            what,
            why=why,
            remedy=remedy,
        )

    def unknown(self, header: Header, names: Sequence[str]) -> RecipeError:
        """Make the error for a key that is not among those that the backend knows."""
        return self.error(
            header,
            f"{self.bootstrap} has no key {header.name}",
            column=header.column,
            why=f"It knows: {', '.join(names) or 'none'}.",
            remedy=did_you_mean(header.name, names) or "Remove the line.",
        )
