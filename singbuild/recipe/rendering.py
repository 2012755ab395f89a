r"""Fills a template with values. Runs as a process of its own, started by template.py.

A template is a program, so it gets bounded processor time and memory, and no
way to anything but its values (Jinja2's sandbox). It loads Jinja2, and YAML for
--values, which the builder itself need not, and never runs a line of the recipe's sections.

Standard input: a JSON object, the arguments of ``fill`` and the builder's process
id. Standard output: a JSON object, the fields of ``Filled``, or ``{"error": CLASS}``
and the error's attributes.
"""

import json
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Never

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta
from jinja2.environment import Environment
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.loaders import FunctionLoader
from jinja2.sandbox import ImmutableSandboxedEnvironment

from singbuild.errors import RecipeError, SingbuildError
from singbuild.recipe.text import LIMIT, MOST_LINES, Text, did_you_mean, printable, sentence
from singbuild.recipe.values import (
    RESERVED,
    from_file,
    from_options,
    from_recipe,
    line_of,
    without_arguments,
)
from singrun import syscalls

SECONDS = 10
"""Processor time that filling one template may take."""
MEMORY = 1 << 30
"""Address space, in bytes, of the process that fills it."""
_INVALID = "the template is not valid"
_RAW = "If {{ or {% is meant as text, put {% raw %} before it and {% endraw %} after it."
_REASONS: dict[type[Exception], str] = {
    MemoryError: "It needs more than 1 GiB of memory.",
    RecursionError: "It is nested too deeply.",
}
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_MARK = re.compile("\0([0-9]+)\0")
_NAME_IN_DEFAULT = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_IN_COMMENT = re.compile(r"^[ \t]*#(?!!).*", re.M)
_BRACE = "{\0"  # the first of two that are text


@dataclass(frozen=True)
class Filled:
    """What comes back: the text, the template's line for each of its lines, the values used.

    origins is empty when the lines cannot be told apart, which only a template
    that computes with its own text (a ``filter`` or ``set`` block) can bring about. unused: names
    of build arguments that it has no place for.
    """

    text: str
    origins: tuple[int, ...]
    arguments: Mapping[str, Any]
    unused: tuple[str, ...] = ()


def fill(
    recipe: tuple[str, str],
    build_args: Sequence[str],
    build_arg_file: tuple[str, str] | None,
    values: tuple[str, str] | None,
    *,
    accept_unused: bool = False,
) -> Filled:
    """Render ``recipe``; each file is (path as named, text).

    accept_unused: build arguments that it has no place for are no errors.

    Raises RecipeError for what is wrong in a file, UsageError for a --build-arg.
    """
    source = Text(*recipe)
    declared = from_recipe(source)
    template = Text(source.path, _with_comments_as_text(without_arguments(source)))
    within = {name for text in declared.values() for name in _NAME_IN_DEFAULT.findall(text)}
    names = _used(template) | within | declared.keys()
    unused: list[str] | None = [] if accept_unused else None
    by_name = {
        **(_from_yaml(Text(*values)) if values else {}),
        **(from_file(Text(*build_arg_file), names, unused) if build_arg_file else {}),
        **from_options(build_args, names, unused),
    }
    merged = _defaults(source, declared, by_name) | by_name
    used = {name: merged[name] for name in sorted(names & merged.keys())}
    return Filled(*_rendered(template, merged), used, tuple(dict.fromkeys(unused or ())))


def _from_yaml(file: Text) -> dict[str, Any]:
    from singbuild.recipe.values_file import from_yaml  # loads YAML, for which few have a use

    return from_yaml(file)


def _defaults(
    source: Text, declared: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the defaults that count, with ``{{ NAME }}`` in them filled in."""
    by_name: dict[str, Any] = {}
    size = 0  # characters of all
    for name in _in_order_of_use(source, declared, values):
        parts = _NAME_IN_DEFAULT.split(declared[name])
        try:
            parts[1::2] = [
                by_name[each] if each in by_name else str(_printed(values[each]))
                for each in parts[1::2]
            ]
        except TemplateRuntimeError as error:
            what, why = "the template cannot be filled", sentence(str(error))
            raise source.error(line_of(source, name), 1, what, why=why) from None
        # Thirty defaults, each of which names the one before twice, would fill any memory; so would
        # many that name one of some mebibytes.
        size += sum(map(len, parts))
        if size > LIMIT:
            raise _too_large(source)
        by_name[name] = "".join(parts)
    return by_name


def _in_order_of_use(
    source: Text, declared: Mapping[str, str], values: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the names of the defaults that count, each after those that it uses.

    Raises RecipeError for one that uses itself, or what has no value.
    """
    done = set(values)
    for top in declared:
        # Each of them uses the next one. No function calls itself here: a recipe has room for a
        # chain of as many as it has lines.
        users: dict[str, Iterator[re.Match[str]]] = {}
        if top not in done:
            users[top] = _NAME_IN_DEFAULT.finditer(declared[top])
        while users:
            name = next(reversed(users))
            used = next((each[1] for each in users[name] if each[1] not in done), None)
            if used is None:
                users.popitem()
                done.add(name)
                yield name
            elif used in users or used not in declared:
                raise source.error(
                    line_of(source, name),
                    1,
                    f"{used} uses itself" if used in users else f"{used} has no value",
                    why=f"The default of {name} uses it.",
                    remedy=f"Pass --build-arg {used}=VALUE, or declare it in %arguments.",
                )
            else:
                users[used] = _NAME_IN_DEFAULT.finditer(declared[used])


def _with_comments_as_text(text: str) -> str:
    """Protect ``{{`` in lines that are comments: nothing is filled in there, as in Apptainer."""
    return _IN_COMMENT.sub(lambda line: re.sub(r"\{(?=\{)", _BRACE, line[0]), text)


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
    raise TemplateRuntimeError(f"a {type(value).__name__} is no text; use a filter or a loop")


def _refuse_file(name: str) -> Never:
    raise TemplateRuntimeError(f"a recipe cannot take in the file {name}")


def _environment(*extensions: type[Extension]) -> Environment:
    environment = ImmutableSandboxedEnvironment(
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
    environment.filters.pop("random")
    environment.globals.pop("lipsum")
    return environment


def _used(template: Text) -> set[str]:
    try:
        parsed = _environment().parse(template.text)
        return meta.find_undeclared_variables(parsed) - RESERVED
    except Exception as error:  #  whatever a hostile template brings about
        raise _explained(template, error, {}) from None


def _rendered(template: Text, values: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    try:
        text = _text(template, _environment(), values)
        _check_text(template, text)
    except Exception as error:  #  whatever a hostile template brings about
        raise _explained(template, error, values) from None
    return text, _origins(template, text, values)


def _text(template: Text, environment: Environment, values: Mapping[str, Any]) -> str:
    pieces, size, lines = [], 0, 0
    for piece in environment.from_string(template.text).generate(values):
        piece = piece.replace(_BRACE, "{")
        size, lines = size + len(piece), lines + piece.count("\n")
        if size > LIMIT or lines > MOST_LINES:
            raise _too_large(template)
        pieces.append(piece)
    return "".join(pieces)


def _too_large(template: Text) -> RecipeError:
    return template.error(
        0,
        0,
        "the template renders to more than 16 MiB or 100,000 lines",
        remedy="Look for a loop or a value that repeats too much.",
    )


def _check_text(template: Text, text: str) -> None:
    if _NO_TEXT.search(text):
        raise template.error(
            0,
            0,
            "the template renders to a zero byte or to text that is not UTF-8",
            remedy="Look for \\x00 and \\u in its tags.",
        )


def _origins(template: Text, text: str, values: Mapping[str, Any]) -> tuple[int, ...]:
    """Find the template's line for each line of ``text`` by rendering again, with marks in it."""
    try:
        marked = _text(template, _environment(_MarkLines), values)
    except Exception:  #  the text is right; only its places stay unknown
        return ()
    if _MARK.sub("", marked) != text:
        return ()
    origins: list[int] = []
    for line in marked.split("\n")[: len(Text("", text).lines)]:
        mark = _MARK.search(line)
        origins.append(int(mark[1]) if mark else origins[-1] if origins else 1)
    return tuple(origins)


# ── errors of Jinja2 in the user's words ─────────────────────────────────────


def _explained(template: Text, error: Exception, values: Mapping[str, Any]) -> SingbuildError:
    match error:
        case SingbuildError():
            return error
        case TemplateSyntaxError():
            why = sentence(error.message or "")
            n = min(error.lineno, len(template.lines))
            return template.error(n, _tag_column(template.line(n)), _INVALID, why=why, remedy=_RAW)
        case UndefinedError():
            return _undefined(template, error, values)
    why = _REASONS.get(type(error)) or sentence(str(error) or type(error).__name__)
    n = _failed_line(template, error)
    column = _tag_column(template.line(n)) if n else 0
    return template.error(n, column, "the template cannot be filled", why=why)


def _undefined(template: Text, error: UndefinedError, values: Mapping[str, Any]) -> RecipeError:
    n = _failed_line(template, error)
    match = re.search(r"'([^']*)' is undefined|attribute '([^']*)'", str(error))
    name = (match[1] or match[2]) if match else ""
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
    tags = [match.start() + 1 for match in re.finditer(r"\{[{%]", line)]
    return tags[0] if len(tags) == 1 else 0


# ── the process ──────────────────────────────────────────────────────────────


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Read the request, set the limits, answer; end when the builder ends."""
    request = json.load(sys.stdin)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request.pop("builder"):
        return  # it ended before it could be tied to this process
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(what, most)
    try:
        answer = asdict(fill(**request))
    except (SingbuildError, MemoryError, RecursionError) as error:
        explained = _explained(Text(*request["recipe"]), error, {})
        answer = {"error": type(explained).__name__, **vars(explained)}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # to take all modules apart is a sixth of this process


if __name__ == "__main__":
    main()
