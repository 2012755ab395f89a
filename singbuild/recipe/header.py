"""The grammar of a recipe's header: keys, comments, continued lines.

Which keys there are, beyond ``Bootstrap``, is the backends' business.
"""

import re
from dataclasses import replace

from singbuild.errors import RecipeError
from singbuild.recipe.recipe import Header
from singbuild.recipe.text import Text, did_you_mean, printable

REPEATABLE = frozenset({"include"})
"""Header keys that may be given several times; their values are joined by a blank."""

_KEY = re.compile(r"\s*(?P<name>[A-Za-z][A-Za-z0-9_-]*)\s*:(?P<value>.*)")
_NEXT_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\s*:(\s|$)")
_STAGE = re.compile(r"(bootstrap|osbuild)\s*:", re.IGNORECASE)
_COMMENT = re.compile(r"(^|\s)#.*")
_STAGE_NAME = re.compile(r"\s*stage\s*:\s*\S", re.IGNORECASE)
_LEADING = re.compile(r"(stage|from)\s*:\s*\S", re.IGNORECASE)
_OLD_NAMES = {"osbuild", "ostype"}
_EXAMPLE = (
    "Begin it with a line such as Bootstrap: debootstrap; `singbuild backends` lists them all."
)


def is_comment(line: str) -> bool:
    """Tell whether ``#`` is the first character that is not blank."""
    return line.lstrip().startswith("#")


def is_stage(line: str) -> bool:
    """Tell whether the line would begin a header, and with it another stage."""
    return bool(_STAGE.match(line))


def stage_lines(source: Text) -> list[int]:
    """Return the lines at which the recipe's stages begin: the first one is line 1.

    A later one begins with ``Bootstrap:``, or with the keys right before it, once its
    predecessor has that key too, and a section or a name.
    """
    begins: list[int] = [1]
    keys: set[str] = set()
    for n, line in enumerate(source.lines, 1):
        if is_stage(line) and keys >= {"bootstrap", "end"}:
            first = n
            while _LEADING.match(source.line(first - 1)):
                first -= 1
            begins.append(first)
            keys = {"end"} & {"end" for m in range(first, n) if _STAGE_NAME.match(source.line(m))}
        if is_stage(line) and "section" not in keys:
            keys.add("bootstrap")
        if source.section(n):
            keys |= {"section", "end"}
        elif _STAGE_NAME.match(line):
            keys.add("end")
    return begins


def parse_header(
    source: Text, start: int, end: int, implied: tuple[Header, ...] = ()
) -> tuple[Header, ...]:
    """Read the lines from ``start`` to before ``end``, the stage's first section or its end.

    implied: stands for a header that the recipe has not got. Raises RecipeError.
    """
    by_name: dict[str, list[Header]] = {}
    n = start
    while n < end:
        if source.line(n).strip() and not is_comment(source.line(n)):
            header, last = _header(source, n, end)
            same = by_name.setdefault(header.name.lower(), [])
            if same and header.name.lower() not in REPEATABLE:
                raise _repeated(source, n, same[0], header)
            same.append(header)
            n = last
        n += 1
    headers = tuple(map(_joined, by_name.values())) or implied
    _check_bootstrap(source, headers, start, end)
    return headers


def _header(source: Text, n: int, end: int) -> tuple[Header, int]:
    """Read the key that begins at line n; also return the last line of its value."""
    line = source.line(n)
    key = _KEY.fullmatch(line)
    if not key:
        raise _no_key(source, n)
    value, last = _value(source, n, key.start("value"), end)
    column = key.start("value") + len(key["value"]) - len(key["value"].lstrip()) + 1
    if not value and key["name"].lower() == "bootstrap":
        raise source.error(
            n, column, f"{key['name']} has no value", remedy="Write one, or remove the line."
        )
    if key["name"].lower() in _OLD_NAMES:
        raise source.error(
            n,
            key.start("name") + 1,
            f"{key['name']} is the old name of a key",
            remedy=f"Write Bootstrap: {value}.",
        )
    number = source.number(n)
    return Header(key["name"], value, number, key.start("name") + 1, column, line, (number,)), last


def _no_key(source: Text, n: int) -> RecipeError:
    line = source.line(n)
    words = line.split()
    column = len(line) - len(line.lstrip()) + 1
    remedy = "Write a comment with #, a key as Key: value, a section as %name."
    if words[0].startswith("%"):
        remedy = "A section begins in the first column, with % and a letter."
    elif (key := words[0].partition("=")[0]) in ("DistType", "RELEASE"):
        remedy = f"{key} is of Singularity 1. Write Bootstrap: and the name of a backend."
    elif words[0].startswith(("{%", "{{")) and not source.origins:
        remedy = "For a template, add a section %arguments or pass --build-arg."
    elif len(words) > 1 and words[0].isalpha():
        remedy = f"Did you mean {words[0]}: {printable(' '.join(words[1:]))}?"
    return source.error(n, column, "this is neither a key nor a section", remedy=remedy)


def _value(source: Text, n: int, start: int, end: int) -> tuple[str, int]:
    """Join the value that begins at index ``start`` with the lines that continue it."""
    pieces = []
    piece = _COMMENT.sub("", source.line(n)[start:]).strip()
    while piece.endswith("\\"):
        pieces.append(piece[:-1].rstrip())
        n = _continuation(source, n, end)
        piece = _COMMENT.sub("", source.line(n)).strip()
    return " ".join(filter(None, [*pieces, piece])), n


def _continuation(source: Text, n: int, end: int) -> int:
    """Find the line that continues line n; comment lines between them are skipped."""
    following = next((m for m in range(n + 1, end) if not is_comment(source.line(m))), end)
    if following == end or not source.line(following).strip():
        raise source.error(
            n,
            source.line(n).rindex("\\") + 1,
            "nothing follows this backslash",
            why="A backslash at the end says that the value goes on in the next line.",
            remedy="Remove it.",
        )
    if _NEXT_KEY.match(source.line(following)):
        raise source.error(
            following,
            1,
            "this would become part of the value before it",
            why=f"Line {source.number(n)} ends with a backslash.",
            remedy="Remove that backslash, or indent this line.",
        )
    return following


def _repeated(source: Text, n: int, first: Header, header: Header) -> RecipeError:
    return source.error(
        n,
        header.column,
        f"{header.name} is given twice",
        why=f"Its first value is in line {first.line}.",
        remedy="Remove one of the lines.",
    )


def _joined(same: list[Header]) -> Header:
    """Return headers of one key as one."""
    value = " ".join(filter(None, (each.value for each in same)))
    return replace(same[0], value=value, lines=tuple(each.line for each in same))


def _check_bootstrap(source: Text, headers: tuple[Header, ...], start: int, end: int) -> None:
    if any(header.name.lower() == "bootstrap" for header in headers):
        return
    for n in range(start, end):
        key = _KEY.fullmatch(source.line(n))
        if key and did_you_mean(key["name"], ["Bootstrap"]):
            raise source.error(
                n,
                key.start("name") + 1,
                "the recipe has no key Bootstrap",
                remedy="Did you mean Bootstrap?",
            )
    if late := next((n for n in range(end, len(source.lines) + 1) if is_stage(source.line(n))), 0):
        raise source.error(
            late,
            1,
            "the header comes after a section",
            why="Keys after the first section would be text of that section.",
            remedy="Move the header to the top.",
        )
    raise _no_bootstrap(source)


def _no_bootstrap(source: Text) -> RecipeError:
    lines = [line for line in source.lines if line.strip()]
    if not lines:
        return source.error(0, 0, "the recipe is empty", remedy=_EXAMPLE)
    if all(map(is_comment, lines)):
        return source.error(0, 0, "the recipe holds only comments", remedy=_EXAMPLE)
    return source.error(
        0,
        0,
        "the recipe has no key Bootstrap",
        why="It names the backend that fills the image.",
        remedy=_EXAMPLE,
    )
