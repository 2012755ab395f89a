"""Text and Markdown as roff: man(7)."""

from __future__ import annotations

import re
import textwrap

WIDTH = 78


def literal(text: str) -> str:
    """Return lines to be shown as they are."""
    lines = [_guarded(_escaped(line)) for line in text.strip("\n").splitlines()]
    return "\n".join([".nf", *lines, ".fi"])


def document(text: str) -> str:
    """Return a document of headings, paragraphs, lists, tables and code."""
    parts: list[str] = []
    for block in re.split(r"\n{2,}(?![^`]*```\n(?:\n|\Z))", text.strip("\n")):
        parts += _block(block.strip("\n"))
    text = "\n".join(parts).removeprefix(".PP\n")
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.M)


def table(text: str) -> str:
    """Return the rows of the tables in a text, each with its first cell as a heading."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return "\n".join(_row(line) for line in rows if not _is_head(line, rows))


def _block(block: str) -> list[str]:
    if not block:
        return []
    if heading := re.fullmatch(r"(#+) (.+)", block):
        return [f".{'SH' if len(heading[1]) < 3 else 'SS'} {_inline(heading[2]).upper()}"]
    if "```" in block:
        before, _, rest = block.partition("```")
        code, _, remainder = rest.partition("\n```")
        code = code.partition("\n")[2]
        return [*_block(before.strip("\n")), literal(code), *_block(remainder.strip("\n"))]
    if block.startswith("|"):
        return [table(block)]
    if block.startswith(("* ", "- ")):
        items = re.split(r"\n(?=[*-] )", block)
        return [f".IP \\(bu 2\n{_filled(item[2:])}" for item in items]
    return [f".PP\n{_filled(block)}"]


def _is_head(line: str, rows: list[str]) -> bool:
    """Whether a row is a table's head, or the line below that."""
    following = rows[rows.index(line) + 1 :][:1]
    rule = r"\|[-|: ]+\|?"
    return bool(re.fullmatch(rule, line) or (following and re.fullmatch(rule, following[0])))


def _row(line: str) -> str:
    first, *rest = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))
    description = _filled("; ".join(cell for cell in rest if cell) or "\u2014")
    return f".TP\n{_guarded(_inline(first))}\n{description}"


def _filled(text: str) -> str:
    lines = textwrap.wrap(
        _inline(" ".join(text.split())), WIDTH, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(map(_guarded, lines))


def _inline(text: str) -> str:
    """Return text with its code and emphasis in bold, and links as their words."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).replace("\\|", "|")
    parts = re.split(r"`([^`]+)`|\*\*([^*]+)\*\*", text)
    roff = ""
    for plain, code, strong in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        bold = code or strong
        roff += _escaped(plain) + (f"\\fB{_escaped(bold)}\\fR" if bold else "")
    return roff


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")


def _guarded(line: str) -> str:
    """Return a line that begins no request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
