r"""Fills a template with values. Runs as a process of its own, started by template.py.

A template is a program, so it gets bounded processor time and memory, and no
way to anything but its values (Jinja2's sandbox). This module is the only one
that loads Jinja2 and YAML, and it never runs a line of the recipe's sections.

Standard input: a JSON object, the arguments of ``fill``. Standard output: a JSON
object, the fields of ``Filled``, or ``{"error": CLASS, …its attributes}``.
"""

import json
import re
import resource
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Never, Protocol

import yaml
from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta
from jinja2.environment import Environment
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.loaders import FunctionLoader
from jinja2.sandbox import ImmutableSandboxedEnvironment

from singbuild.errors import RecipeError, SingbuildError, UsageError
from singbuild.recipe_text import LIMIT, MOST_LINES, Text, did_you_mean, printable, unquoted

SECONDS = 10
"""Processor time that filling one template may take."""
MEMORY = 1 << 30
"""Address space, in bytes, of the process that fills it."""
MOST_VALUES = 10_000
"""How many values one --values file may hold once its aliases are written out."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset(
    """
    and block break call caller continue cycler dict do elif else endfor endif endraw endset extends
    false filter for from if import in include is joiner loop macro namespace none not or raw range
    recursive self set super true varargs kwargs with without False None True
    """.split()  # noqa: SIM905  a list of 48 quoted words is no easier to read
)
_INVALID = "the template is not valid"
_RAW = "If {{ or {% is meant as text, put {% raw %} before it and {% endraw %} after it."
_REASONS: dict[type[Exception], str] = {
    MemoryError: "It needs more than 1 GiB of memory.",
    RecursionError: "It is nested too deeply.",
}
_MARK = re.compile("\0([0-9]+)\0")


@dataclass(frozen=True)
class Filled:
    """What comes back: the text, the template's line for each of its lines, the values used.

    origins is empty when the lines cannot be told apart, which only a template
    that computes with its own text (a ``filter`` or ``set`` block) can bring about.
    """

    text: str
    origins: tuple[int, ...]
    arguments: Mapping[str, Any]


class _Fail(Protocol):
    def __call__(self, what: str, *, why: str = "", remedy: str = "") -> SingbuildError: ...


def fill(
    recipe: tuple[str, str],
    build_args: Sequence[str],
    build_arg_file: tuple[str, str] | None,
    values: tuple[str, str] | None,
) -> Filled:
    """Render ``recipe``; each file is (path as named, text).

    Raises RecipeError for what is wrong in a file, UsageError for a --build-arg.
    """
    source = Text(*recipe)
    declared = _declared(source)
    template = Text(source.path, _without_arguments(source))
    names = _used(template) | declared.keys()
    merged = {
        **declared,
        **(_from_yaml(Text(*values)) if values else {}),
        **(_from_file(Text(*build_arg_file), names) if build_arg_file else {}),
        **_from_command_line(build_args, names),
    }
    return Filled(
        *_rendered(template, merged), {name: merged[name] for name in sorted(names & merged.keys())}
    )


# ── where values come from ───────────────────────────────────────────────────


def _arguments_lines(source: Text) -> Iterator[tuple[int, bool]]:
    """Yield the line numbers of every %arguments section; True: the line that begins it."""
    inside = False
    for n in range(1, len(source.lines) + 1):
        if begun := source.section(n):
            inside = begun["name"].lower() == "arguments"
        if inside:
            yield n, begun is not None


def _without_arguments(source: Text) -> str:
    """Blank %arguments, so that what comes out is a plain recipe again."""
    blank = {n for n, _ in _arguments_lines(source)}
    return "\n".join(
        "" if n in blank else line for n, line in enumerate(source.text.split("\n"), 1)
    )


def _declared(source: Text) -> dict[str, Any]:
    return _assignments(source, [n for n, first in _arguments_lines(source) if not first])


def _from_file(file: Text, names: set[str]) -> dict[str, Any]:
    found = _assignments(file, range(1, len(file.lines) + 1))
    for name in found:
        n = next(n for n, line in enumerate(file.lines, 1) if line.strip().startswith(name))
        _check_used(name, names, _failing_at(file, n))
    return found


def _from_command_line(build_args: Sequence[str], names: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for written in build_args:
        fail = _failing_option(written)
        name, value = _assignment(written, fail)
        _check_text(value, fail)
        _check_used(name, names, fail)
        found[name] = value
    return found


def _failing_option(written: str) -> _Fail:
    def fail(what: str, *, why: str = "", remedy: str = "") -> SingbuildError:
        return UsageError(f"--build-arg {printable(written)}: {what}", why=why, remedy=remedy)

    return fail


def _assignments(file: Text, numbers: Sequence[int]) -> dict[str, Any]:
    """``NAME=VALUE`` lines; blank lines and lines that begin with ``#`` are skipped."""
    found: dict[str, Any] = {}
    for n in numbers:
        line = file.line(n).strip()
        if not line or line.startswith("#"):
            continue
        fail = _failing_at(file, n)
        name, value = _assignment(line, fail)
        if name in found:
            raise fail(f"{name} is given twice", remedy="Keep one of the lines.")
        found[name] = unquoted(value.strip())
    return found


def _assignment(written: str, fail: _Fail) -> tuple[str, str]:
    name, equals, value = written.partition("=")
    name = name.strip()
    if not equals:
        raise fail("this is not NAME=VALUE", remedy=f"Write {printable(name)}=VALUE.")
    _check_name(name, fail)
    return name, value


def _failing_at(file: Text, n: int, column: int | None = None) -> _Fail:
    line = file.line(n) if n else ""
    where = len(line) - len(line.lstrip()) + 1 if column is None else column

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
    if name in _RESERVED:
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
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"0|-?[1-9][0-9]{0,17}", "-0123456789"),
):
    _ValuesLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first)
    )


def _from_yaml(file: Text) -> dict[str, Any]:
    try:
        found = yaml.load(file.text, Loader=_ValuesLoader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise _bad_yaml(file, error.problem_mark, error.problem or "") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise _bad_yaml(file, None, printable(str(error))) from None
    if not isinstance(found or {}, dict):
        raise _failing_at(file, 1)(
            "the values have no names", remedy="Write a mapping: one NAME: VALUE a line."
        )
    return {str(name): _value(file, name, value) for name, value in (found or {}).items()}


def _bad_yaml(file: Text, mark: yaml.Mark | None, problem: str) -> RecipeError:
    n = min(mark.line + 1, len(file.lines)) if mark else 0
    return file.error(
        n, mark.column + 1 if mark else 0, "this is not the YAML of a values file", why=problem
    )


def _value(file: Text, name: object, value: object) -> Any:  # noqa: ANN401
    lines = (n for n, line in enumerate(file.lines, 1) if line.startswith(str(name)))
    fail = _failing_at(file, next(lines, 0), None)
    _check_name(str(name), fail)
    return _plain(value, fail, iter(range(MOST_VALUES)), depth=0)


def _plain(value: object, fail: _Fail, budget: Iterator[int], depth: int) -> Any:  # noqa: ANN401
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


# ── Jinja2 ───────────────────────────────────────────────────────────────────


class _MarkLines(Extension):
    """Writes each template line's number, between zero bytes, where the line begins."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for token in stream:
            yield self._marked(token) if token.type == "data" else token

    @staticmethod
    def _marked(token: Token) -> Token:
        first, *others = token.value.split("\n")
        marked = (f"\n\0{n}\0{line}" for n, line in enumerate(others, token.lineno + 1))
        return Token(token.lineno, "data", first + "".join(marked))


def _printed(value: object) -> object:
    """How ``{{ value }}`` reads in a recipe: YAML's words, no Python."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return ""
        case str() | int() | float() | Undefined():
            return value
    raise TemplateRuntimeError(f"a {type(value).__name__} cannot be put in as it is")


def _refuse_file(name: str) -> Never:
    raise TemplateRuntimeError(f"a recipe cannot take in the file {name}")


def _environment(*extensions: type[Extension]) -> Environment:
    made = ImmutableSandboxedEnvironment(
        # Bash writes ${#name}. No text holds a zero byte, so nothing begins a comment.
        comment_start_string="\0#",
        comment_end_string="#\0",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=_printed,
        loader=FunctionLoader(_refuse_file),
        extensions=extensions,
    )
    # The same recipe gives the same text.
    made.filters.pop("random")
    made.globals.pop("lipsum")
    return made


def _used(template: Text) -> set[str]:
    try:
        parsed = _environment().parse(template.text)
        return meta.find_undeclared_variables(parsed) - _RESERVED
    except Exception as error:  #  whatever a hostile template brings about
        raise _explained(template, error, {}) from None


def _rendered(template: Text, values: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    try:
        text = _text(template, _environment(), values)
    except Exception as error:  #  whatever a hostile template brings about
        raise _explained(template, error, values) from None
    return text, _origins(template, text, values)


def _text(template: Text, environment: Environment, values: Mapping[str, Any]) -> str:
    pieces, size, lines = [], 0, 0
    for piece in environment.from_string(template.text).generate(values):
        size, lines = size + len(piece), lines + piece.count("\n")
        if size > LIMIT or lines > MOST_LINES:
            raise template.error(
                0,
                0,
                "the template renders to more than 16 MiB or 100,000 lines",
                remedy="Look for a loop or a value that repeats too much.",
            )
        pieces.append(piece)
    return "".join(pieces)


def _origins(template: Text, text: str, values: Mapping[str, Any]) -> tuple[int, ...]:
    """Find the template's line for each line of ``text`` by rendering again, with marks in it."""
    try:
        marked = _text(template, _environment(_MarkLines), values)
    except Exception:  #  the text is right; only its places stay unknown
        return ()
    if _MARK.sub("", marked) != text:
        return ()
    origins = [1]
    for line in marked.removesuffix("\n").split("\n")[1:]:
        mark = _MARK.search(line)
        origins.append(int(mark[1]) if mark else origins[-1])
    return tuple(origins)


# ── errors of Jinja2 in the user's words ─────────────────────────────────────


def _explained(template: Text, error: Exception, values: Mapping[str, Any]) -> SingbuildError:
    match error:
        case SingbuildError():
            return error
        case TemplateSyntaxError():
            why = f"Jinja2 says: {printable((error.message or '').rstrip('.'))}."
            n = min(error.lineno, len(template.lines))
            return template.error(n, _tag_column(template.line(n)), _INVALID, why=why, remedy=_RAW)
        case UndefinedError():
            return _undefined(template, error, values)
    why = _REASONS.get(type(error)) or f"{printable(str(error).rstrip('.'))}."
    n = _failed_line(template, error)
    column = _tag_column(template.line(n)) if n else 0
    return template.error(n, column, "the template cannot be filled", why=why)


def _undefined(template: Text, error: UndefinedError, values: Mapping[str, Any]) -> RecipeError:
    n = _failed_line(template, error)
    found = re.search(r"'([^']*)' is undefined|attribute '([^']*)'", str(error))
    name = (found[1] or found[2]) if found else ""
    at = re.search(rf"\b{re.escape(name)}\b", template.line(n)) if n and name else None
    return template.error(
        n,
        at.start() + 1 if at else 0,
        f"{printable(name) or 'a name'} has no value",
        why=f"Names with a value: {', '.join(sorted(_names(values))) or 'none'}.",
        remedy=" ".join(
            part
            for part in (
                did_you_mean(name, _names(values)),
                f"Pass --build-arg {printable(name)}=VALUE, or declare it in %arguments.",
            )
            if part
        ),
    )


def _names(values: Mapping[str, Any]) -> set[str]:
    """Collect every name, those in nested mappings too."""
    nested = (_names(value) for value in values.values() if isinstance(value, dict))
    return set(values).union(*nested)


def _failed_line(template: Text, error: Exception) -> int:
    """Find the template's line in the traceback, where Jinja2 puts it; 0: unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if frame.filename == "<template>"]
    return lines[-1] if lines and lines[-1] <= len(template.lines) else 0


def _tag_column(line: str) -> int:
    """Find the column of the only tag in ``line``; 0 when it is not the only one."""
    tags = [found.start() + 1 for found in re.finditer(r"\{[{%]", line)]
    return tags[0] if len(tags) == 1 else 0


# ── the process ──────────────────────────────────────────────────────────────


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Read the request, set the limits, answer. See the module's docstring for both."""
    request = json.load(sys.stdin)
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(what, most)
    try:
        answer = asdict(fill(**request))
    except SingbuildError as error:
        answer = {"error": type(error).__name__, **vars(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
