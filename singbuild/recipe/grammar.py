"""From a recipe's file to its frozen value.

``load`` is the way in. This module has the grammar of the sections; the header's is
in header.py. What a section means, and what is done with it, is for others.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from singbuild.errors import RecipeError
from singbuild.recipe import template
from singbuild.recipe.header import is_comment, is_stage, parse_header, stage_lines
from singbuild.recipe.recipe import STAGE, CopyItem, Header, Label, Line, Recipe, Section
from singbuild.recipe.text import Text, Word, did_you_mean, printable, read, unquoted

__all__ = ["CopyItem", "Header", "Label", "Line", "Recipe", "Section", "load", "parse"]

SCRIPTS = ("setup", "post", "runscript", "test")
"""Sections that are programs: they take ``-c PROGRAM`` and options of the shell."""
SECTIONS = (*SCRIPTS, "files", "environment", "labels", "help", "arguments")
_UNSUPPORTED = {
    "pre": "Put its commands into %setup, or do it before the build.",
    "startscript": "There are no instances; start the service from %runscript.",
    **dict.fromkeys(
        "appinstall applabels appfiles appenv apptest apphelp apprun appstart".split(),  # noqa: SIM905
        "Put the application's part into %post, %environment and %runscript.",
    ),
}
_SHELL_TEXT = frozenset({*SCRIPTS, "environment"})
_HEREDOC = re.compile(r"(?<!<)<<-?\s*\\?(['\"]?)(?P<end>[A-Za-z_]\w*)\1")
_OPENS, _ENDS = range(2)
_TAKES_WORD = re.compile(r"[-+]\w*[oO]")


def load(
    path: str,
    *,
    build_args: Sequence[str] = (),
    build_arg_file: Path | None = None,
    values: Path | None = None,
    implied: tuple[Header, ...] = (),
    source: Text | None = None,
) -> Recipe:
    """Read the recipe ``path`` ("-": standard input), fill its template, parse it.

    implied: the header of a recipe that has none; source: what was read of the path already.
    The text is a template when it has %arguments or when any value is given
    (see ``template.render``), else it is taken literally. Raises RecipeError for
    what is wrong in a file and UsageError for what is wrong in ``build_args``.
    """
    source = source or read(path)
    if not (template.is_template(source) or build_args or build_arg_file or values):
        return parse(source, implied)
    filled = template.render(
        source, build_args=build_args, build_arg_file=build_arg_file, values=values
    )
    return replace(parse(filled.text, implied), path=source.path, arguments=filled.arguments)


def parse(source: Text, implied: tuple[Header, ...] = ()) -> Recipe:
    """Parse a recipe's text, taken literally. implied: the header of one that has none."""
    begins = stage_lines(source)
    stages: list[Recipe] = []
    for begin, stop in pairwise([*begins, len(source.lines) + 1]):
        stage = _stage(source, range(begin, stop), implied)
        _check_stage(source, stage, stages)
        stages.append(stage)
    return replace(stages[-1], stages=tuple(stages[:-1]))


def _stage(source: Text, lines: range, implied: tuple[Header, ...]) -> Recipe:
    """Parse one stage: a header, and the sections up to the next one."""
    start = next((n for n in lines if source.section(n)), lines.stop)
    headers = parse_header(source, lines.start, start, implied)
    parts = list(_parts(source, range(start, lines.stop)))
    _check_heredocs(source, parts)
    files = [part for part in parts if part.name == "files"]
    return Recipe(
        path=source.path,
        source=source,
        headers=headers,
        sections=MappingProxyType(_sections(source, parts)),
        files=tuple(i for part in files for n in part.lines for i in _copy_item(source, n, part)),
        labels=_labels(source, _content(parts, "labels")),
    )


def _check_stage(source: Text, stage: Recipe, before: Sequence[Recipe]) -> None:
    """Refuse two stages of one name, and a copy from one that is not before this one."""
    known = {each.stage: each for each in before if each.stage}
    if stage.stage in known:
        header, first = stage.header(STAGE), known[stage.stage].header(STAGE)
        assert header
        assert first
        raise stage.error(
            header,
            f"there are two stages of the name {printable(stage.stage, keep=40)}",
            why=f"The first is in line {first.line}.",
            remedy="Rename one of them, and the %files that copy from it.",
        )
    for item in stage.files:
        if item.stage and item.stage not in known:
            raise RecipeError(
                printable(source.path, keep=4096),
                item.line,
                0,
                printable(stage.line(item.line)),
                f"%files from {printable(item.stage, keep=40)}: no stage before this one has "
                "that name",
                why=f"Stages before it: {', '.join(map(printable, known)) or 'none'}.",
                remedy=did_you_mean(item.stage, known)
                or "Name a stage in its header: Stage: NAME.",
            )


def _numbers(source: Text) -> range:
    return range(1, len(source.lines) + 1)


# ── sections ─────────────────────────────────────────────────────────────────


class _Part(NamedTuple):
    """One appearance of a section: its first line's number, its words, its lines' numbers."""

    name: str
    begin: int
    words: list[Word]
    lines: range


def _parts(source: Text, lines: range) -> Iterator[_Part]:
    begins = [n for n in lines if source.section(n)]
    ends = [*begins[1:], lines.stop]
    for begin, end in zip(begins, ends, strict=False):
        found = source.section(begin)
        assert found
        name = found["name"].lower()
        _check_known(source, begin, found["name"])
        words = source.words(begin, found.start("arguments"))
        _check_arguments(source, begin, name, words)
        for n in range(begin + 1, end):
            if is_stage(source.line(n)):  # in a recipe that has no header of its own
                raise source.error(
                    n, 1, "the header comes after a section", remedy="If it is text, indent it."
                )
        yield _Part(name, begin, words, range(begin + 1, end))


def _check_known(source: Text, n: int, name: str) -> None:
    if name.lower() in SECTIONS:
        return
    shown = printable(name, keep=40)
    text = f"If the line is text, write %%{shown}: one % is taken away."
    if name.lower() in _UNSUPPORTED:
        raise source.error(
            n,
            1,
            f"the section %{shown} is not supported",
            why="Singularity and Apptainer have it, singbuild does not.",
            remedy=f"{_UNSUPPORTED[name.lower()]}\n{text}",
        )
    raise source.error(
        n,
        1,
        f"there is no section %{shown}",
        why=f"Sections: {' '.join(f'%{known}' for known in SECTIONS)}",
        remedy="\n".join(
            filter(None, [did_you_mean(f"%{name}", [f"%{s}" for s in SECTIONS]), text])
        ),
    )


def _check_arguments(source: Text, n: int, name: str, words: list[Word]) -> None:
    if name == "files" and len(words) == 2 and words[0].text == "from":
        return
    if words and name not in SCRIPTS:
        raise _no_arguments(source, n, name, words)
    before = ""
    for word in words:
        takes_word = before == "-c" or _TAKES_WORD.fullmatch(before)
        if not takes_word and not word.text.startswith(("-", "+")):
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


def _sections(source: Text, parts: list[_Part]) -> dict[str, Section]:
    found: dict[str, list[_Part]] = {}
    for part in parts:
        first = found.setdefault(part.name, [part])[0]
        if part is not first:
            if part.name != "files":  # each of these has a source of its own
                _check_same_arguments(source, first, part)
            found[part.name].append(part)
    return {name: _section(source, name, same) for name, same in found.items()}


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


def _check_heredocs(source: Text, parts: list[_Part]) -> None:
    """Refuse a here-document that a line of its own text, such as ``%files``, would end."""
    scripts = [part for part in parts if part.name in _SHELL_TEXT]
    opened = [(part, *found) for part in scripts if (found := _open_heredoc(source, part))]
    places = _heredoc_places(source) if opened else {}
    for part, begin, word in opened:
        later = places[word][bisect_left(places[word], (part.lines.stop, _OPENS)) :]
        if later and later[0][1] == _ENDS:
            raise source.error(
                part.lines.stop,
                1,
                "this line is inside a here-document, yet begins a section",
                why=f"<<{word} in line {source.number(begin)} ends in line "
                f"{source.number(later[0][0])}.",
                remedy="If the line is text, write %% for its %: one is taken away."
                if source.section(part.lines.stop)
                else "If the line is text, indent it.",
            )


def _open_heredoc(source: Text, part: _Part) -> tuple[int, str] | None:
    """Find the here-document that is still open where the section ends: line and end word."""
    opened: tuple[int, str] | None = None
    for n in part.lines:
        line = source.line(n)
        if opened:
            opened = None if line.strip() == opened[1] else opened
        elif not is_comment(line) and (found := _HEREDOC.search(line)):
            opened = n, found["end"]
    return opened


def _heredoc_places(source: Text) -> dict[str, list[tuple[int, int]]]:
    """Index by word, in order, the lines that could end a here-document and those that open one."""
    places: dict[str, list[tuple[int, int]]] = {}
    for n in _numbers(source):
        places.setdefault(source.line(n).strip(), []).append((n, _ENDS))
        for found in _HEREDOC.finditer(source.line(n)):
            places.setdefault(found["end"], []).append((n, _OPENS))
    return places


# ── lines of %files and %labels ──────────────────────────────────────────────


def _content(parts: list[_Part], name: str) -> list[int]:
    return [n for part in parts if part.name == name for n in part.lines]


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


def _labels(source: Text, numbers: list[int]) -> tuple[Label, ...]:
    found: dict[str, Label] = {}
    for n in numbers:
        line = _literal(source.line(n))
        if not line.strip() or is_comment(line):
            continue
        key, *value = line.split(maxsplit=1)
        column = source.line(n).index(key) + 1
        if not value:
            remedy = f"Write {printable(key.replace('=', ' ', 1))}{'' if '=' in key else ' VALUE'}."
            raise source.error(n, column, "this label has no value", remedy=remedy)
        if key in found:
            raise source.error(
                n,
                column,
                f"the label {printable(key)} is given twice",
                why=f"Its first value is in line {found[key].line}.",
                remedy="Remove one of the lines.",
            )
        found[key] = Label(key, unquoted(value[0].strip()), source.number(n))
    return tuple(found.values())
