"""A recipe's text: bytes become lines, and errors are located in them.

Knows no header key, no section and no template; it knows what a line, a word
and a place are, and where a section starts.
"""

import codecs
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from singbuild.errors import RecipeError
from singrun.errors import nearest

LIMIT = 16 * 1024 * 1024
"""The largest text, in bytes, that is read as a recipe or may come out of a template."""

MOST_LINES = 100_000
"""The most lines of either."""

SECTION = re.compile(r"%(?P<name>[A-Za-z]\S*)(?P<arguments>.*)")
"""A line that begins a section: a percent sign in the first column, then a letter."""

_BLANKS = re.compile(r"\s*")
_PROTECTING = re.compile(r"[\"'\\]")
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')*""")
_TOO_LARGE = "the file is larger than 16 MiB or 100,000 lines"
_TEXT_FILE = "Name a recipe: a UTF-8 text file."
# ext2's superblock begins at byte 1024, and its s_magic at byte 56 of that.
_EXT_MAGIC = slice(1080, 1082)


@dataclass(frozen=True)
class Word:
    """One word of a line, quotes removed; column: where it starts, from 1."""

    text: str
    column: int


@dataclass(frozen=True)
class Text:
    r"""Lines, each with the place it has in the file that the user wrote.

    path: as the user named it. text: line ends are ``\n``, no byte order mark.
    origins: for a text out of another one, such as a template, the other's line for each line;
    empty when text is what the user wrote. template: the text before rendering.
    """

    path: str
    text: str
    origins: tuple[int, ...] = ()
    template: str = ""

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines without their ends; line 1 is ``lines[0]``."""
        return tuple(self.text.removesuffix("\n").split("\n"))

    def line(self, n: int) -> str:
        """Return line n of this text, from 1."""
        return self.lines[n - 1]

    def number(self, n: int) -> int:
        """Return the line of the user's file from which line n of this text comes."""
        return self.origins[n - 1] if self.origins else n

    def section(self, n: int) -> re.Match[str] | None:
        """Match the section that line n begins, if it begins one."""
        return SECTION.match(self.line(n))

    def error(
        self, n: int, column: int, what: str, *, why: str = "", remedy: str = ""
    ) -> RecipeError:
        """Make an error at line n of this text, told as a place in the user's file.

        n 0: the whole file; column 0: the whole line.
        """
        path = printable(self.path, keep=4096)
        if not n:
            return RecipeError(path, 0, 0, "", what, why=why, remedy=remedy)
        line = self.line(n)
        why = "\n".join(part for part in (self._rendered_from(n), why) if part)
        text = printable(line, keep=max(160, column + 40))
        return RecipeError(path, self.number(n), column, text, what, why=why, remedy=remedy)

    def _rendered_from(self, n: int) -> str:
        if not self.template:
            return ""
        line = self.template.split("\n")[self.number(n) - 1]
        return "" if line == self.line(n) else f"The template's line is: {printable(line)}"

    def words(self, n: int, start: int = 0) -> list[Word]:
        """Split line n from index ``start`` on into words, as a shell does.

        Single and double quotes and backslashes protect; a ``#`` that begins a
        word begins a comment. Raises RecipeError for a quote that is not closed.
        """
        return list(self._words(n, start))

    def _words(self, n: int, at: int) -> Iterator[Word]:
        line = self.line(n).rstrip()
        while (at := _end(_BLANKS, line, at)) < len(line) and line[at] != "#":
            end = _end(_WORD, line, at)
            if end < len(line) and not line[end].isspace():
                raise self._unclosed(n, end + 1)
            yield Word(_unprotected(line[at:end]), at + 1)
            at = end

    def _unclosed(self, n: int, column: int) -> RecipeError:
        return self.error(
            n,
            column,
            "this quote or backslash protects nothing",
            why="A quote needs its partner on the same line; a backslash needs a character.",
            remedy="Close the quote, or write \\\" or \\' for the character itself.",
        )


def _unprotected(word: str) -> str:
    return shlex.split(word)[0] if _PROTECTING.search(word) else word


def _end(pattern: re.Pattern[str], line: str, at: int) -> int:
    match = pattern.match(line, at)
    return match.end() if match else at


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Propose the known word nearest to ``word``, or one that begins alike; "" for none."""
    names = list(words) if 1 < len(word) <= 40 else []
    near = nearest(word, names) or next((name for name in names if _begin_alike(word, name)), "")
    return f"Did you mean {near}?" if near else ""


def _begin_alike(word: str, name: str) -> bool:
    short, long = sorted((word.lower(), name.lower()), key=len)
    return len(short) > 3 and long.startswith(short)


def unquoted(value: str) -> str:
    """Remove the pair of quotes around ``value``, if there is one and none inside."""
    inner = value[1:-1]
    paired = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return inner if paired and value[0] not in inner else value


def sentence(text: str) -> str:
    """Make a sentence of what a library says: capital letter, full stop, safe for a terminal."""
    line = printable(text.rstrip("."))
    return f"{line[:1].upper()}{line[1:]}." if line else ""


def printable(text: str, keep: int = 160) -> str:
    """Make ``text`` safe for a terminal: what cannot be shown becomes U+FFFD; long text is cut."""
    safe = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text[:keep])
    return safe + "…" if len(text) > keep else safe


def read(path: str) -> Text:
    r"""Read the file ``path``, or standard input for ``-``, as checked text.

    A byte order mark is dropped; CRLF and CR become ``\n``. Raises RecipeError
    for a file that is missing, unreadable, too large, or not UTF-8 text.
    """
    name = "<stdin>" if path == "-" else path
    text = _decoded(name, _bytes(path, name).removeprefix(codecs.BOM_UTF8))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > MOST_LINES:
        raise _whole(name, _TOO_LARGE, remedy=_TEXT_FILE)
    return Text(name, text)


def _bytes(path: str, name: str) -> bytes:
    try:
        # Descriptor 0 itself: /dev/stdin cannot be opened anew when it is a socket.
        descriptor = 0 if path == "-" else os.open(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb", closefd=descriptor != 0) as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise _whole(name, "there is no such file", remedy=_similar(path)) from None
    except IsADirectoryError:
        raise _whole(name, "this is a directory, not a recipe", remedy=_recipes_in(path)) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _whole(name, "the file cannot be read", why=f"The system says: {why}.") from None
    # A large file with a zero byte is most likely an image, which _decoded() says.
    if len(data) > LIMIT and b"\0" not in data:
        raise _whole(name, _TOO_LARGE, remedy=_TEXT_FILE)
    return data


def _whole(name: str, what: str, *, why: str = "", remedy: str = "") -> RecipeError:
    return RecipeError(printable(name), 0, 0, "", what, why=why, remedy=remedy)


def _similar(path: str) -> str:
    folder = Path(path).parent
    beside = folder.glob(f"*{Path(path).suffix}") if os.access(folder, os.R_OK) else []
    names = [entry.name for entry in islice(beside, 1000)]
    return did_you_mean(Path(path).name, names) or "Check the path."


def _recipes_in(path: str) -> str:
    names = sorted(str(entry) for entry in Path(path).glob("*.def"))[:5]
    return f"It holds {', '.join(names)}." if names else "Name a recipe file in it."


def _decoded(name: str, data: bytes) -> str:
    nul = data.find(b"\0")
    try:
        text = data[: nul if nul >= 0 else None].decode()
    except UnicodeDecodeError as error:
        raise _bad_byte(
            name,
            data,
            error.start,
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            "Save the recipe as UTF-8; `iconv -t UTF-8` converts a file.",
        ) from None
    if nul >= 0:
        raise _bad_byte(name, data, nul, "a zero byte: this is not a text file", _not_text(data))
    return text


def _not_text(data: bytes) -> str:
    if data[_EXT_MAGIC] == b"\x53\xef":
        return "This is an image. The order is: singbuild RECIPE IMAGE."
    return _TEXT_FILE


def _bad_byte(name: str, data: bytes, at: int, what: str, remedy: str) -> RecipeError:
    start = data.rfind(b"\n", 0, at) + 1
    before = data[start:at].decode()
    after = data[at : at + 40].split(b"\n")[0].decode(errors="replace")
    text = printable(before + after, keep=len(before) + 40)
    number = data.count(b"\n", 0, at) + 1
    return RecipeError(name, number, len(before) + 1, text, what, remedy=remedy)
