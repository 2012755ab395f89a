"""Variables in instructions: ``$NAME``, ``${NAME:-default}`` and kin; quotes and words.

Source: the Dockerfile reference, "Environment replacement". What is filled in is data: it is never
split or filled again.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping

from singbuild.recipe.text import LIMIT

DEEPEST = 50  # braces in braces
_NAME = re.compile(r"[A-Za-z_]\w*")
_BRACE = re.compile(r"(?P<name>[A-Za-z_]\w*|\d+)(?P<how>:?[-+?]|##?|%%?)?(?P<word>.*)", re.DOTALL)
Variables = Mapping[str, str]


class MalformedError(ValueError):
    """A text that cannot be filled; its message says why."""


class Values(ChainMap[str, str]):
    """The variables of a stage, or of the lines before the first; the first map wins.

    room: characters that they may still bring into texts: in all no more than a template may.
    """

    room = LIMIT

    def __getitem__(self, name: str) -> str:
        """Return a value to be filled in. Raises MalformedError when there is no room for it."""
        value = super().__getitem__(name)
        self.room -= len(value)
        if self.room < 0:
            raise MalformedError(f"variables have brought over {LIMIT} characters into the text")
        return value


def words(text: str, variables: Variables, escape: str = "\\") -> list[str]:
    """Split a text at blanks outside quotes, and fill each word."""
    parts: list[str] = []
    at, begin = 0, None
    while at < len(text):
        if text[at].isspace():
            if begin is not None:
                parts.append(filled(text[begin:at], variables, escape))
                begin = None
            at += 1
            continue
        begin = at if begin is None else begin
        at = _after(text, at, escape)
    if begin is not None:
        parts.append(filled(text[begin:], variables, escape))
    return parts


def pairs(text: str, variables: Variables, escape: str = "\\") -> list[tuple[str, str]]:
    """Return the pairs of ``NAME=VALUE …``, or of the old ``NAME VALUE`` with one."""
    first = re.split(r"\s", text, maxsplit=1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise MalformedError(f"{first[0]} has no value")
        return [(first[0], filled(first[1].strip(), variables, escape))]
    rows = []
    for raw in raw_words(text, escape):
        name, sign, value = raw.partition("=")
        if not sign:
            raise MalformedError(f"{raw} is no NAME=VALUE")
        rows.append((filled(name, variables, escape), filled(value, variables, escape)))
    return rows


def filled(text: str, variables: Variables, escape: str = "\\") -> str:
    """Fill a text: quotes and escapes are removed, variables replaced by their values."""
    out, at, quote = [], 0, ""
    while at < len(text):
        char = text[at]
        if quote == "'":
            out.append("" if char == "'" else char)
            quote = "" if char == "'" else quote
            at += 1
        elif char in "'\"" and not (quote and char == "'"):
            quote = "" if quote else char
            at += 1
        elif char == escape and at + 1 < len(text):
            backslash = escape if quote and text[at + 1] not in f'"${escape}' else ""
            out.append(backslash + text[at + 1])
            at += 2
        elif char == "$":
            value, at = _variable(text, at, variables, escape)
            out.append(value)
        else:
            out.append(char)
            at += 1
    if quote:
        raise MalformedError(f"the quote {quote} is not closed")
    return "".join(out)


def raw_words(text: str, escape: str = "\\") -> list[str]:
    """Split a text at blanks outside quotes; quotes stay."""
    parts: list[str] = []
    at, begin = 0, None
    while at < len(text):
        if text[at].isspace():
            if begin is not None:
                parts.append(text[begin:at])
            begin = None
            at += 1
        else:
            begin = at if begin is None else begin
            at = _after(text, at, escape)
    return [*parts, text[begin:]] if begin is not None else parts


def _after(text: str, at: int, escape: str) -> int:
    """Return the index behind a character, an escaped one, or a quoted part."""
    if text[at] == escape:
        return min(at + 2, len(text))
    if text[at] in "'\"":
        quote, at = text[at], at + 1
        while at < len(text) and text[at] != quote:
            at += 2 if text[at] == escape and quote == '"' else 1
        return min(at + 1, len(text))
    return at + 1


def _variable(text: str, at: int, variables: Variables, escape: str) -> tuple[str, int]:
    """Return the value of the variable at ``$``, and the index behind it."""
    if text.startswith("${", at):
        end, depth = at + 2, 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
            if depth > DEEPEST:
                raise MalformedError(f"over {DEEPEST} braces are in each other")
        match = _BRACE.fullmatch(text[at + 2 : end - 1])
        if depth or not match:
            raise MalformedError(f"{text[at:end]} is no variable")
        return _modified(match, variables, escape), end
    match = _NAME.match(text, at + 1)
    return (variables.get(match[0], ""), match.end()) if match else ("$", at + 1)


def _modified(match: re.Match[str], variables: Variables, escape: str) -> str:
    name, how = match["name"], match["how"] or ""
    value = variables.get(name)
    is_there = bool(value) if how.startswith(":") else value is not None
    if how in ("", None):
        if match["word"]:
            raise MalformedError(f"${{{match[0]}}} is no variable")
        return value or ""
    word = filled(match["word"], variables, escape)
    if how.endswith("-"):
        return (value or "") if is_there else word
    if how.endswith("+"):
        return word if is_there else ""
    if how.endswith("?"):
        if not is_there:
            raise MalformedError(f"{name}: {word or 'is not set'}")
        return value or ""
    return _trimmed(value or "", how, word)


def _trimmed(value: str, how: str, pattern: str) -> str:
    """Remove a pattern's shortest match at the beginning (#) or end (%); ##, %%: the longest."""
    step = 1 if "#" in how else -1  # an end is the beginning of what is reversed
    first, *others = [re.escape(part).replace(r"\?", ".") for part in pattern[::step].split("*")]
    # The nearest place of what follows a star will do, but for the last: nothing is tried twice.
    near = "".join(f"(?>.*?{part})" for part in others[:-1])
    last = (".*" if len(how) > 1 else ".*?") + others[-1] if others else ""
    match = re.match(first + near + last, value[::step], re.DOTALL)
    return value[::step][match.end() :][::step] if match else value


def filled_document(text: str, variables: Variables) -> str:
    """Fill a here-document: quotes are ordinary in it, a backslash protects ``$``."""
    out, at = [], 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in ("$", "\\"):
            out.append(text[at + 1])
            at += 2
        elif text[at] == "$":
            value, at = _variable(text, at, variables, "\\")
            out.append(value)
        else:
            out.append(text[at])
            at += 1
    return "".join(out)
