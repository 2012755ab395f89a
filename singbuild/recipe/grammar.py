"""From a recipe's file to its frozen value.

``load`` is the way in. This module has the grammar of the sections; the header's is
in header.py. What a section means, and what is done with it, is for others.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from singbuild.errors import RecipeError
from singbuild.recipe import heredocs, template
from singbuild.recipe.header import is_comment, is_stage, parse_header, stage_lines
from singbuild.recipe.recipe import STAGE, App, CopyItem, Header, Label, Line, Recipe, Section
from singbuild.recipe.text import Text, Word, did_you_mean, printable, read, unquoted

__all__ = ["App", "CopyItem", "Header", "Label", "Line", "Recipe", "Section", "load", "parse"]

SCRIPTS = ("pre", "setup", "post", "runscript", "startscript", "test")
"""Sections that are programs: they take ``-c PROGRAM`` and options of the shell."""
SECTIONS = (*SCRIPTS, "files", "environment", "labels", "help", "arguments")
APP = "app"
APP_SECTIONS = ("install", "files", "env", "run", "labels", "help", "test", "start")
"""Sections of an app, SCIF's: their names begin with "app", and the app's name follows."""
_ALL = (*SECTIONS, *(APP + name for name in APP_SECTIONS))
_SHELL_TEXT = {
    *SCRIPTS,
    "environment",
    *(APP + name for name in ("install", "env", "run", "test", "start")),
}
_APP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_NEARLY = re.compile(r"\s*%\s*(?P<name>[A-Za-z]+)\s*")
"""A line that somebody may have meant as the beginning of a section, though it is none."""
_TAG = re.compile(r"(?<!\$)\{\{\s*[A-Za-z_]\w*\s*\}\}")
_TAKES_WORD = re.compile(r"[-+]\w*[oO]")


def load(
    path: str,
    *,
    build_args: Sequence[str] = (),
    build_arg_file: Path | None = None,
    values: Path | None = None,
    implied: tuple[Header, ...] = (),
    source: Text | None = None,
    on_unused: Callable[[str], None] | None = None,
) -> Recipe:
    """Read the recipe ``path`` ("-": standard input), fill its template, parse it.

    implied: the header of a recipe that has none; source: what was read of the path already;
    on_unused: as ``template.render`` takes it.
    The text is a template when it has %arguments or when any value is given
    (see ``template.render``), else it is taken literally. Raises RecipeError for
    what is wrong in a file and UsageError for what is wrong in ``build_args``.
    """
    source = source or read(path)
    if not (template.is_template(source) or build_args or build_arg_file or values):
        literal = parse(source, implied)
        return replace(literal, warnings=(*literal.warnings, *_warning_of_tags(source)))
    filled = template.render(
        source,
        build_args=build_args,
        build_arg_file=build_arg_file,
        values=values,
        on_unused=on_unused,
    )
    return replace(parse(filled.text, implied), path=source.path, arguments=filled.arguments)


def parse(source: Text, implied: tuple[Header, ...] = ()) -> Recipe:
    """Parse a recipe's text, taken literally. implied: the header of one that has none."""
    begins = stage_lines(source)
    places = cache(partial(heredocs.places, source))
    stages: list[Recipe] = []
    by_name: dict[str, Recipe] = {}
    for begin, stop in pairwise([*begins, len(source.lines) + 1]):
        stage = _stage(source, range(begin, stop), implied, places)
        _check_stage(source, stage, by_name)
        stages.append(stage)
        if stage.stage:
            by_name[stage.stage] = stage
    return replace(stages[-1], stages=tuple(stages[:-1]))


def _stage(
    source: Text, lines: range, implied: tuple[Header, ...], places: Callable[[], heredocs.Places]
) -> Recipe:
    """Parse one stage: a header, and the sections up to the next one."""
    start = next((n for n in lines if source.section(n)), lines.stop)
    headers = parse_header(source, lines.start, start, implied)
    parts = list(_parts(source, range(start, lines.stop)))
    scripts = [part.lines for part in parts if part.name in _SHELL_TEXT]
    heredocs.check_ended(source, scripts, places)
    warnings = _Warnings(source)
    for part in parts:
        _warn_of_nearly_sections(warnings, part)
    own = [part for part in parts if not part.app]
    apps: dict[str, list[_Part]] = {}
    for part in parts:
        if part.app:
            apps.setdefault(part.app, []).append(part)
    return Recipe(
        path=source.path,
        source=source,
        headers=headers,
        sections=_sections(source, own),
        files=tuple(item for part in parts for item in _copy_items(source, part)),
        labels=_labels(warnings, own, "labels"),
        apps=tuple(_app(warnings, name, parts) for name, parts in apps.items()),
        warnings=tuple(warnings.texts),
    )


def _check_stage(source: Text, stage: Recipe, stages: Mapping[str, Recipe]) -> None:
    """Refuse two stages of one name, and a copy from one that is not before this one.

    stages: those before it that have a name, by that.
    """
    if stage.stage in stages:
        header, first = stage.header(STAGE), stages[stage.stage].header(STAGE)
        assert header
        assert first
        raise stage.error(
            header,
            f"there are two stages of the name {printable(stage.stage, keep=40)}",
            why=f"The first is in line {first.line}.",
            remedy="Rename one of them, and the %files that copy from it.",
        )
    for item in stage.files:
        if item.stage and item.stage not in stages:
            raise RecipeError(
                printable(source.path, keep=4096),
                item.line,
                0,
                printable(stage.line(item.line)),
                f"%files from {printable(item.stage, keep=40)}: no stage before this one has "
                "that name",
                why=f"Stages before it: {', '.join(map(printable, stages)) or 'none'}.",
                remedy=did_you_mean(item.stage, stages)
                or "Name a stage in its header: Stage: NAME.",
            )


def _app(warnings: "_Warnings", name: str, parts: list["_Part"]) -> App:
    sections = {
        key.removeprefix(APP): section for key, section in _sections(warnings.source, parts).items()
    }
    return App(name, MappingProxyType(sections), _labels(warnings, parts, "applabels"))


class _Warnings:
    """Warnings of a recipe that is valid all the same."""

    def __init__(self, source: Text) -> None:
        self.source, self.texts = source, list[str]()

    def add(self, n: int, text: str) -> None:
        self.texts.append(f"{self.source.path}:{self.source.number(n)}: {text}")


def _numbers(source: Text) -> range:
    return range(1, len(source.lines) + 1)


# ── sections ─────────────────────────────────────────────────────────────────


class _Part(NamedTuple):
    """One appearance of a section: its first line's number, its words, its lines' numbers.

    app: whose it is; "" for the recipe's own.
    """

    name: str
    begin: int
    words: list[Word]
    lines: range
    app: str = ""


def _parts(source: Text, lines: range) -> Iterator[_Part]:
    begins = [n for n in lines if source.section(n)]
    ends = [*begins[1:], lines.stop]
    for begin, end in zip(begins, ends, strict=False):
        heading = source.section(begin)
        assert heading
        name = heading["name"].lower()
        _check_known(source, begin, heading["name"])
        words, app = source.words(begin, heading.start("arguments")), ""
        if name.startswith(APP):
            app, words = _app_name(source, begin, name, words), words[1:]
        _check_arguments(source, begin, name, words)
        for n in range(begin + 1, end):
            if is_stage(source.line(n)):  # in a recipe that has no header of its own
                raise source.error(
                    n, 1, "the header comes after a section", remedy="If it is text, indent it."
                )
        yield _Part(name, begin, words, range(begin + 1, end), app)


def _check_known(source: Text, n: int, name: str) -> None:
    if name.lower() in _ALL:
        return
    word = printable(name, keep=40)
    text = f"If the line is text, write %%{word} for it: one % is taken away."
    raise source.error(
        n,
        1,
        f"there is no section %{word}",
        why=f"Sections: {' '.join(f'%{each}' for each in SECTIONS)}\n"
        f"Sections of an app: {' '.join(f'%app{each}' for each in APP_SECTIONS)}",
        remedy="\n".join(filter(None, [did_you_mean(f"%{name}", [f"%{s}" for s in _ALL]), text])),
    )


def _app_name(source: Text, n: int, name: str, words: list[Word]) -> str:
    if words and _APP_NAME.fullmatch(words[0].text):
        return words[0].text
    raise source.error(
        n,
        words[0].column if words else len(source.line(n).rstrip()) + 1,
        f"%{name} needs the name of an app",
        why="A name has letters, digits and . _ + -, and begins with a letter or a digit.",
        remedy=f"Write %{name} NAME.",
    )


def _warn_of_nearly_sections(warnings: _Warnings, part: _Part) -> None:
    source = warnings.source
    lines = heredocs.lines_outside(source, part.lines) if part.name in _SHELL_TEXT else part.lines
    for n in lines:
        match = _NEARLY.fullmatch(source.line(n))
        if match and match["name"].lower() in _ALL:
            warnings.add(
                n,
                f"this is text of %{part.name}: a section begins with % in the first column "
                f"and its name right behind it, as %{match['name'].lower()}",
            )


def _warning_of_tags(source: Text) -> tuple[str, ...]:
    """Tell of the first ``{{ NAME }}`` in a text that is no template."""
    warnings = _Warnings(source)
    for n in _numbers(source):
        tag = _TAG.search(source.line(n))
        if tag and not source.line(n).lstrip().startswith("#"):
            what = f"{tag[0]} stays as it is: a recipe with neither %arguments nor --build-arg"
            warnings.add(n, f"{what} is no template")
            break
    return tuple(warnings.texts)


def _check_arguments(source: Text, n: int, name: str, words: list[Word]) -> None:
    if name == "files" and len(words) == 2 and words[0].text == "from":
        return
    if words and name.removeprefix(APP) not in (*SCRIPTS, "install", "run", "start"):
        raise _no_arguments(source, n, name, words)
    before, is_command = "", False
    for word in words:
        takes_word = before == "-c" or _TAKES_WORD.fullmatch(before)
        is_option = word.text.startswith(("-", "+"))
        is_command = before == "-c" or (is_command and not is_option)
        if not (takes_word or is_option or is_command):
            raise source.error(
                n,
                word.column,
                f"{printable(word.text)} is not an option of the shell",
                remedy=f"Write %{name} -c PROGRAM to choose a program; text begins a line later.",
            )
        before = "" if takes_word else word.text
    if before == "-c" or [word.text for word in words].count("-c") > 1:
        remedy = f"Write %{name} -c /bin/bash."
        raise source.error(n, words[-1].column, "-c takes one program", remedy=remedy)


def _no_arguments(source: Text, n: int, name: str, words: list[Word]) -> RecipeError:
    stage = " Or write %files from STAGE." if name == "files" else ""
    return source.error(
        n,
        words[0].column,
        f"%{name} stands alone on its line",
        remedy=f"Put the text on the next line.{stage}",
    )


def _sections(source: Text, parts: list[_Part]) -> Mapping[str, Section]:
    by_name: dict[str, list[_Part]] = {}
    for part in parts:
        first = by_name.setdefault(part.name, [part])[0]
        if part is not first:
            if part.name != "files":  # each of these has a source of its own
                _check_same_arguments(source, first, part)
            by_name[part.name].append(part)
    return MappingProxyType({name: _section(source, name, same) for name, same in by_name.items()})


def _section(source: Text, name: str, parts: list[_Part]) -> Section:
    return Section(
        name,
        arguments=tuple(word.text for word in parts[0].words),
        parts=tuple(
            tuple(Line(_literal(source.line(n)), source.number(n)) for n in part.lines)
            for part in parts
        ),
        line=source.number(parts[0].begin),
        places=tuple(source.number(part.begin) for part in parts),
    )


def _check_same_arguments(source: Text, first: _Part, part: _Part) -> None:
    if [word.text for word in first.words] != [word.text for word in part.words]:
        raise source.error(
            part.begin,
            1,
            f"%{part.name} is given twice, with different arguments",
            why=f"Its first part is in line {source.number(first.begin)}; they are run as one.",
            remedy="Give both the same arguments.",
        )


def _literal(line: str) -> str:
    """Take the first of two percent signs away: that is how text begins with one."""
    return line[1:] if line.startswith("%%") else line


# ── lines of %files and %labels ──────────────────────────────────────────────


def _copy_items(source: Text, part: _Part) -> Iterator[CopyItem]:
    """Read the lines of %files; those of %appfiles go below the app's own directory."""
    if part.name in ("files", "appfiles"):
        for n in part.lines:
            for item in _copy_item(source, n, part):
                if part.app:
                    place = f"/scif/apps/{part.app}/{item.destination or item.source}"
                    yield replace(item, destination=place)
                else:
                    yield item


def _copy_item(source: Text, n: int, part: _Part) -> Iterator[CopyItem]:
    words = source.words(n, start=1 if source.line(n).startswith("%%") else 0)
    if len(words) > 2:
        raise source.error(
            n,
            words[2].column,
            "a line of %files has a source and a destination, no more",
            remedy='Write "…" around a name that holds blanks.',
        )
    for word in words:
        if not word.text:
            raise source.error(n, word.column, "the name is empty", remedy="Write a name.")
    if words:
        destination = words[1].text if len(words) > 1 else ""
        stage = part.words[1].text if part.words else ""
        yield CopyItem(words[0].text, destination, source.number(n), stage)


def _labels(warnings: _Warnings, parts: list[_Part], name: str) -> tuple[Label, ...]:
    """Read KEY VALUE lines as Apptainer does: a value may be missing, and the last one holds."""
    source, labels = warnings.source, dict[str, Label]()
    for n in (n for part in parts if part.name == name for n in part.lines):
        line = _literal(source.line(n))
        if not line.strip() or is_comment(line):
            continue
        key, *value = line.split(maxsplit=1)
        label = printable(key, keep=40)
        if not value:
            advice = f"write {key.replace('=', ' ', 1)}" if "=" in key else "it is stored empty"
            warnings.add(n, f"the label {label} has no value: {printable(advice)}")
        if key in labels:
            warnings.add(n, f"the label {label} replaces that of line {labels.pop(key).line}")
        labels[key] = Label(key, unquoted("".join(value).strip()), source.number(n))
    return tuple(labels.values())
