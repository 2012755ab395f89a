"""Here-documents in a recipe's scripts: where one is open, and whether a section ends in it."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from singbuild.recipe.header import is_comment
from singbuild.recipe.text import Text

_HEREDOC = re.compile(r"(?<!<)<<-?\s*\\?(['\"]?)(?P<end>[A-Za-z_]\w*)\1")
_OPENS, _ENDS = range(2)


def check_ended(source: Text, scripts: Sequence[range]) -> None:
    """Refuse a here-document that a line of its own text, such as ``%files``, would end.

    scripts: the numbers of the lines of each script.
    """
    opened = [(lines, *start) for lines in scripts if (start := _open_at_end(source, lines))]
    places = _places(source) if opened else {}
    for lines, begin, word in opened:
        later = places[word][bisect_left(places[word], (lines.stop, _OPENS)) :]
        if later and later[0][1] == _ENDS:
            raise source.error(
                lines.stop,
                1,
                "this line is inside a here-document, yet begins a section",
                why=f"<<{word} in line {source.number(begin)} ends in line "
                f"{source.number(later[0][0])}.",
                remedy="If the line is text, write %% for its %: one is taken away."
                if source.section(lines.stop)
                else "If the line is text, indent it.",
            )


def lines_outside(source: Text, lines: range) -> Iterator[int]:
    """Yield the numbers of a script's lines that are no text of a here-document."""
    return (n for n, opened in _states(source, lines) if not opened or opened[0] == n)


def _open_at_end(source: Text, lines: range) -> tuple[int, str] | None:
    """Find the here-document that is still open behind a script: its line and its end word."""
    return max(_states(source, lines), default=(0, None))[1]


def _states(source: Text, lines: range) -> Iterator[tuple[int, tuple[int, str] | None]]:
    """Yield each line's number with the here-document that is open behind it: line, end word."""
    opened: tuple[int, str] | None = None
    for n in lines:
        line = source.line(n)
        if opened:
            opened = None if line.strip() == opened[1] else opened
        elif not is_comment(line) and (match := _HEREDOC.search(line)):
            opened = n, match["end"]
        yield n, opened


def _places(source: Text) -> dict[str, list[tuple[int, int]]]:
    """Index by word, in order, the lines that could end a here-document and those that open one."""
    places: dict[str, list[tuple[int, int]]] = {}
    for n in range(1, len(source.lines) + 1):
        places.setdefault(source.line(n).strip(), []).append((n, _ENDS))
        for match in _HEREDOC.finditer(source.line(n)):
            places.setdefault(match["end"], []).append((n, _OPENS))
    return places
