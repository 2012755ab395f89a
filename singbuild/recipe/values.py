"""Where a template's values come from: the recipe, a YAML file, a file of lines, options.

Every value is checked and made plain data here, before any template sees it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import yaml

from singbuild.errors import RecipeError, SingbuildError, UsageError
from singbuild.recipe.header import stage_lines
from singbuild.recipe.text import Text, did_you_mean, printable, sentence

MOST_VALUES = 10_000
"""How many values one --values file may hold once its aliases are written out."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = frozenset(
    """
    and block break call caller continue cycler dict do elif else endfor endif endraw endset extends
    false filter for from if import in include is joiner loop macro namespace none not or raw range
    recursive self set super true varargs kwargs with without False None True
    """.split()  # noqa: SIM905  a list of 48 quoted words is no easier to read
)


class _Fail(Protocol):
    def __call__(self, what: str, *, why: str = "", remedy: str = "") -> SingbuildError: ...


def from_recipe(source: Text) -> dict[str, Any]:
    """Read the names and defaults of %arguments."""
    return _assignments(source, [n for n, first in _arguments_lines(source) if not first])


def line_of(source: Text, name: str) -> int:
    """Return the line of %arguments that declares a name."""
    lines = (n for n, first in _arguments_lines(source) if not first)
    return next((n for n in lines if source.line(n).partition("=")[0].strip() == name), 0)


def without_arguments(source: Text) -> str:
    """Blank %arguments, so that what comes out is a plain recipe again."""
    blank = {n for n, _ in _arguments_lines(source)}
    lines = enumerate(source.text.split("\n"), 1)
    return "\n".join("" if n in blank else line for n, line in lines)


def _arguments_lines(source: Text) -> Iterator[tuple[int, bool]]:
    """Yield the line numbers of every %arguments section; True: the line that begins it."""
    inside, stages = False, {*stage_lines(source)}
    for n in range(1, len(source.lines) + 1):
        begun = source.section(n)
        if begun or n in stages:
            inside = bool(begun and begun["name"].lower() == "arguments")
        if inside:
            yield n, begun is not None


def from_file(file: Text, names: set[str], unused: list[str] | None = None) -> dict[str, Any]:
    """Read a --build-arg-file; names, unused: as ``from_options`` takes them."""
    values = _assignments(
        file, range(1, len(file.lines) + 1), None if unused is not None else names
    )
    if unused is not None:
        unused += [name for name in values if name not in names]
    return values


def from_options(
    build_args: Sequence[str], names: set[str], unused: list[str] | None = None
) -> dict[str, Any]:
    """Read ``NAME=VALUE`` of each --build-arg; the last one wins.

    names: those that the recipe declares or uses; unused: takes others, which are errors without
    it.
    """
    values: dict[str, Any] = {}
    for option in build_args:
        fail = _failing_option(option)
        name, value = _assignment(option, fail)
        _check_text(value, fail)
        if unused is None:
            _check_used(name, names, fail)
        elif name not in names:
            unused.append(name)
        values[name] = value
    return values


def _failing_option(option: str) -> _Fail:
    def fail(what: str, *, why: str = "", remedy: str = "") -> SingbuildError:
        return UsageError(f"--build-arg {printable(option)}: {what}", why=why, remedy=remedy)

    return fail


def _assignments(
    file: Text, numbers: Sequence[int], names: set[str] | None = None
) -> dict[str, Any]:
    """Read ``NAME=VALUE`` lines; blank lines and lines that begin with ``#`` are skipped.

    A name may come again with the same value: each stage of Apptainer's has %arguments of its own.
    """
    values: dict[str, Any] = {}
    for n in numbers:
        line = file.line(n).strip()
        if not line or line.startswith("#"):
            continue
        fail = _failing_at(file, n)
        name, value = _assignment(line, fail)
        value = value.strip()
        if values.get(name, value) != value:
            raise fail(
                f"{name} is given twice, with another value",
                why=f"Its first value is {printable(values[name])}; all stages share it.",
                remedy="Give one of them another name, here and where it is used.",
            )
        if names is not None:
            _check_used(name, names, fail)
        values[name] = value
    return values


def _assignment(option: str, fail: _Fail) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    name = name.strip()
    if not equals:
        raise fail("this is not NAME=VALUE", remedy=f"Write {printable(name)}=VALUE.")
    _check_name(name, fail)
    return name, value


def _failing_at(file: Text, n: int) -> _Fail:
    line = file.line(n) if n else ""
    where = len(line) - len(line.lstrip()) + 1

    def fail(what: str, *, why: str = "", remedy: str = "") -> SingbuildError:
        return file.error(n, where, what, why=why, remedy=remedy)

    return fail


def _check_name(name: str, fail: _Fail) -> None:
    if not _NAME.fullmatch(name):
        raise fail(
            f"{printable(name) or 'nothing'} is no name for an argument",
            why="A name has letters, digits and underscores, and no digit first.",
            remedy="Choose another name, here and in the recipe.",
        )
    if name in RESERVED:
        raise fail(
            f"{name} is a word of the template language",
            remedy="Choose another name, here and in the recipe.",
        )


def _check_used(name: str, names: set[str], fail: _Fail) -> None:
    if name not in names:
        listed = ", ".join(sorted(names)) or "none"
        raise fail(
            f"the recipe has no argument {name}",
            why=f"It declares or uses: {listed}.",
            remedy=did_you_mean(name, names) or "Leave it out, or declare it in %arguments.",
        )


def _check_text(text: str, fail: _Fail) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise fail("the value is not UTF-8 text", remedy="Give it in UTF-8.") from None
    if "\0" in text:
        raise fail("the value holds a zero byte", remedy="Leave the zero byte out.")


# ── the --values file ────────────────────────────────────────────────────────


class _ValuesLoader(yaml.SafeLoader):
    """YAML where only true, false, null and whole numbers are more than text.

    YAML 1.1 reads ``3.10`` as 3.1, ``12:30`` as 750 and ``no`` as false; versions,
    times and country codes are what recipes are about.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"0|-?[1-9][0-9]{0,17}", "-0123456789"),
):
    _ValuesLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first)
    )


def from_yaml(file: Text) -> dict[str, Any]:
    """Read a --values file: a mapping; nested ones are reached as ``{{ a.b }}``."""
    try:
        document = yaml.load(file.text, Loader=_ValuesLoader)  # noqa: S506  a SafeLoader
    except Exception as error:  # PyYAML lets ValueError, RecursionError and others through
        raise _bad_yaml(file, error) from None
    if not isinstance(document or {}, dict):
        raise _failing_at(file, 1)(
            "the values have no names", remedy="Write a mapping: one NAME: VALUE a line."
        )
    return {str(name): _value(file, name, value) for name, value in (document or {}).items()}


def _bad_yaml(file: Text, error: Exception) -> RecipeError:
    what, why = "this is not the YAML of a values file", getattr(error, "problem", str(error))
    for mark in (getattr(error, "problem_mark", None), getattr(error, "context_mark", None)):
        if mark and mark.line < len(file.lines):
            return file.error(mark.line + 1, mark.column + 1, what, why=sentence(why))
    return file.error(0, 0, what, why=sentence(why or type(error).__name__))


def _value(file: Text, name: object, value: object) -> Any:
    lines = (n for n, line in enumerate(file.lines, 1) if line.startswith(str(name)))
    fail = _failing_at(file, next(lines, 0))
    _check_name(str(name), fail)
    return _plain(value, fail, iter(range(MOST_VALUES)), depth=0)


def _plain(value: object, fail: _Fail, budget: Iterator[int], depth: int) -> Any:
    if depth > 50 or next(budget, None) is None:
        raise fail(
            f"the value is deeper than 50 or holds more than {MOST_VALUES:,} values",
            why="Aliases (*name) count as often as they are used.",
            remedy="Make the values file smaller.",
        )
    match value:
        case str():
            _check_text(value, fail)
            return value
        case None | bool() | int():
            return value
        case list():
            return [_plain(item, fail, budget, depth + 1) for item in value]
        case dict():
            return {
                _plain_key(key, fail): _plain(item, fail, budget, depth + 1)
                for key, item in value.items()
            }
    raise fail(
        f"a value is of the kind {type(value).__name__}",
        remedy="Use text, whole numbers, true, false, null, lists and mappings.",
    )


def _plain_key(key: object, fail: _Fail) -> str:
    _check_text(str(key), fail)
    return str(key)
