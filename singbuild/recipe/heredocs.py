"""Here-documents in a recipe's scripts: where one is open, and whether a section ends in it."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from singbuild.recipe.header import is_comment
from singbuild.recipe.text import Text

_HEREDOC = re.compile(r"(?<!<)<<-?\s*\\?(['\"]?)(?P<end>[A-Za-z_]\w*)\1")
_OPENS, _ENDS = range(2)
Places = dict[str, list[tuple[int, int]]]
"""By word, in order: the lines that could end a here-document of that word, or open one."""


def check_ended(source: Text, scripts: Sequence[range], index: Callable[[], Places]) -> None:
    """Refuse a here-document that a line of its own text, such as ``%files``, would end.

    scripts: the numbers of the lines of each script; index: makes the ``places`` of the source,
    once for all its stages.
    """
    opened = [(lines, *start) for lines in scripts if (start := _open_at_end(source, lines))]
    for lines, begin, word in opened:
        of_word = index()[word]
        at = bisect_left(of_word, (lines.stop, _OPENS))
        if at < len(of_word) and of_word[at][1] == _ENDS:
            raise source.error(
                lines.stop,
                1,
                "this line is inside a here-document, yet begins a section",
                why=f"<<{word} in line {source.number(begin)} ends in line "
                f"{source.number(of_word[at][0])}.",
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


def places(source: Text) -> Places:
    """Index the lines of a recipe that end or open here-documents."""
    index: Places = {}
    for n in range(1, len(source.lines) + 1):
        index.setdefault(source.line(n).strip(), []).append((n, _ENDS))
        for match in _HEREDOC.finditer(source.line(n)):
            index.setdefault(match["end"], []).append((n, _OPENS))
    return index
