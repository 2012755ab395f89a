"""A template's values from the recipe, a file of lines, and options; values_file.py reads YAML.

Every value is checked and made plain data here, before any template sees it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from singbuild.errors import SingbuildError, UsageError
from singbuild.recipe.header import stage_lines
from singbuild.recipe.text import Text, did_you_mean, printable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = frozenset(
    """
    and block break call caller continue cycler dict do elif else endfor endif endraw endset extends
    false filter for from if import in include is joiner loop macro namespace none not or raw range
    recursive self set super true varargs kwargs with without False None True
    """.split()  # noqa: SIM905  a list of 48 quoted words is no easier to read
)


class Fail(Protocol):
    """Makes an error of what is wrong, with the place where it stands."""

    def __call__(self, what: str, *, why: str = "", remedy: str = "") -> SingbuildError:
        """Return it; the fields are those of SingbuildError."""
        ...


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
        check_text(value, fail)
        if unused is None:
            _check_used(name, names, fail)
        elif name not in names:
            unused.append(name)
        values[name] = value
    return values


def _failing_option(option: str) -> Fail:
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
        fail = failing_at(file, n)
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


def _assignment(option: str, fail: Fail) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    name = name.strip()
    if not equals:
        raise fail("this is not NAME=VALUE", remedy=f"Write {printable(name)}=VALUE.")
    check_name(name, fail)
    return name, value


def failing_at(file: Text, n: int) -> Fail:
    """Return what makes errors of a line of a file; 0: of the file."""
    line = file.line(n) if n else ""
    where = len(line) - len(line.lstrip()) + 1

    def fail(what: str, *, why: str = "", remedy: str = "") -> SingbuildError:
        return file.error(n, where, what, why=why, remedy=remedy)

    return fail


def check_name(name: str, fail: Fail) -> None:
    """Check that a template can use a name."""
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


def _check_used(name: str, names: set[str], fail: Fail) -> None:
    if name not in names:
        listed = ", ".join(sorted(names)) or "none"
        raise fail(
            f"the recipe has no argument {name}",
            why=f"It declares or uses: {listed}.",
            remedy=did_you_mean(name, names) or "Leave it out, or declare it in %arguments.",
        )


def check_text(text: str, fail: Fail) -> None:
    """Check that a recipe can hold a value."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise fail("the value is not UTF-8 text", remedy="Give it in UTF-8.") from None
    if "\0" in text:
        raise fail("the value holds a zero byte", remedy="Leave the zero byte out.")
