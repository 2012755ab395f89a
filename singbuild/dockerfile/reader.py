"""From a Dockerfile's text to its instructions: comments, continued lines, here-documents, flags.

A reader of our own: ``dockerfile-parse`` knows neither here-documents nor flags, and ``dockerfile``
brings a Go runtime into the process, whose threads forbid unshare(2) of a user namespace.
Source of the grammar: the Dockerfile reference, "Parser directives", "Here-documents".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from singbuild.errors import RecipeError
from singbuild.recipe.recipe import Document, Instruction
from singbuild.recipe.text import Text, did_you_mean, printable

KEYWORDS = """FROM RUN CMD LABEL EXPOSE ENV ADD COPY ENTRYPOINT VOLUME USER WORKDIR ARG ONBUILD
    STOPSIGNAL HEALTHCHECK SHELL MAINTAINER""".split()  # noqa: SIM905
WITH_DOCUMENTS = ("RUN", "COPY", "ADD")
WITH_FLAGS = ("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK")

_DIRECTIVE = re.compile(r"#\s*(\w+)\s*=\s*(.+?)\s*")
_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=((?:\"[^\"]*\"|\S)*))?(?:\s+|$)")
_QUOTED = r"""'[^']*'|"(?:\\.|[^"\\])*\""""
_OPENS = re.compile(rf"(?<!<)<<(-?)(?:({_QUOTED})|([A-Za-z_]\w*))")
_PROTECTED = re.compile(rf"((?<!<)<<-?(?:{_QUOTED}))|{_QUOTED}")


@dataclass
class _Lines:
    """The lines not read yet. n: of the next one, from 1."""

    source: Text
    escape: str
    n: int = 1

    def have_lines(self) -> bool:
        return self.n <= len(self.source.lines)

    def take(self) -> str:
        self.n += 1
        return self.source.line(self.n - 1)


def instructions(source: Text) -> list[Instruction]:
    """Return what a Dockerfile says, in order. Raises RecipeError."""
    lines = _begun(source)
    parsed = []
    while lines.have_lines():
        line = lines.take()
        if line.strip() and not line.lstrip().startswith("#"):
            parsed.append(_instruction(lines, line))
    return parsed


def escape(source: Text) -> str:
    """Return the character that protects the next one, by a directive if there is one."""
    return _begun(source).escape


def trigger(source: Text, n: int, text: str) -> Instruction:
    """Return the instruction that an ONBUILD has kept, its here-documents behind it. n: its line.

    Raises RecipeError.
    """
    rows = instructions(Text(source.path, text, origins=(n,) * (text.count("\n") + 1)))
    if len(rows) != 1:
        raise source.error(
            n,
            1,
            f"there is no instruction, or more than one, in {printable(text, keep=40)}",
            why="It is a trigger, which is executed where a stage begins.",
            remedy="Write one instruction behind ONBUILD.",
        )
    inner = rows[0]
    if inner.keyword in ("ONBUILD", "FROM", "MAINTAINER"):
        raise error(source, inner, f"ONBUILD {inner.keyword} is not allowed")
    return inner


def parsed(source: Text, n: int, text: str, documents: tuple[Document, ...] = ()) -> Instruction:
    """Return the instruction that a text, its continued lines joined, is. n: its line."""
    match = _INSTRUCTION.fullmatch(text.rstrip())
    keyword = match[1].upper() if match else ""
    if not match or keyword not in KEYWORDS:
        word = (text.split() or [""])[0]
        raise source.error(
            n,
            1,
            f"there is no instruction {printable(word, keep=40)}",
            why=f"Instructions: {' '.join(KEYWORDS)}",
            remedy=did_you_mean(word.upper(), KEYWORDS) or "Correct the line.",
        )
    rest, at, flags = (match[2] or "").strip(), 0, []
    while keyword in WITH_FLAGS and (flag := _FLAG.match(rest, at)):
        flags.append((flag[1], flag[2] or ""))
        at = flag.end()
    rest = rest[at:]
    if not rest and keyword != "HEALTHCHECK":
        raise source.error(n, 1, f"{keyword} has no argument", remedy="Write one.")
    return Instruction(keyword, rest, source.number(n), text, tuple(flags), documents)


def words_of_json(rest: str) -> list[str] | None:
    """Return the words of the exec form, ``["a", "b"]``; None for text that is none."""
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    return value if all(map(is_text, value)) else None


def is_text(word: object) -> bool:
    """Whether a value is a string that an argument, a variable or a path can have."""
    try:  # a zero byte ends a string in C; JSON has halves of surrogates, UTF-8 has none
        return isinstance(word, str) and b"\0" not in word.encode()
    except UnicodeEncodeError:
        return False


def _begun(source: Text) -> _Lines:
    """Return the lines of a Dockerfile behind the comments that say how to read the rest."""
    lines = _Lines(source, "\\")
    while lines.have_lines() and (match := _DIRECTIVE.fullmatch(lines.source.line(lines.n))):
        n, name, value = lines.n, match[1].lower(), match[2]
        if name not in ("syntax", "escape", "check"):
            break
        lines.take()
        if name == "escape":
            if value not in ("\\", "`"):
                raise lines.source.error(
                    n, 1, "escape is a backslash or a backtick", remedy="Write # escape=\\"
                )
            lines.escape = value
    return lines


def _instruction(lines: _Lines, line: str) -> Instruction:
    """Read the rest of the instruction that a line begins, and the documents behind it."""
    begin, pieces = lines.n - 1, []
    end = re.compile(re.escape(lines.escape) + r"[ \t]*$")
    while continued := end.search(line):
        pieces.append(line[: continued.start()])
        line = ""
        while lines.have_lines():
            line = lines.take()
            if line.strip() and not line.lstrip().startswith("#"):
                break
            line = ""  # comments and blank lines between are left out
    text = "".join([*pieces, line])
    keyword = text.split(maxsplit=1)[0].upper() if text.strip() else ""
    inner = text.split(maxsplit=1)[-1] if keyword == "ONBUILD" else text
    documents: list[Document] = []
    if (inner.split() or [""])[0].upper() in WITH_DOCUMENTS:
        documents = [*_documents(lines, begin, text)]
    return parsed(lines.source, begin, text, tuple(documents))


def _documents(lines: _Lines, begin: int, text: str) -> Iterator[Document]:
    if words_of_json(text.split(maxsplit=1)[-1].strip()) is not None:
        return
    for match in _OPENS.finditer(_without_quotes(text)):
        name, body = match[3] or _without_marks(match[2]), []
        if not name:
            continue
        while True:
            if not lines.have_lines():
                raise lines.source.error(
                    begin,
                    1,
                    f"the here-document {printable(name, keep=40)} does not end",
                    remedy=f"Write a line of {printable(name, keep=40)} alone behind it.",
                )
            line = lines.take()
            line = line.lstrip("\t") if match[1] else line
            if line == name:
                break
            body.append(line)
        content = "".join(f"{line}\n" for line in body)
        yield Document(name, content, literal=bool(match[2]), stripped=bool(match[1]))


def _without_quotes(text: str) -> str:
    """Return a text with blanks in the place of quoted parts, but for here-documents' end words."""
    return _PROTECTED.sub(lambda match: match[1] or " " * len(match[0]), text)


def _without_marks(quoted: str) -> str:
    """Return what stands between quotes; a backslash protects in double ones: POSIX, 2.2.3."""
    inner = quoted[1:-1]
    return re.sub(r'\\(["\\])', r"\1", inner) if quoted[0] == '"' else inner


def error(
    source: Text, instruction: Instruction, what: str, *, why: str = "", remedy: str = ""
) -> RecipeError:
    """Make an error at an instruction."""
    line = printable(instruction.text.split("\n")[0])
    path = printable(source.path, keep=4096)
    # All may have words of the instruction.
    what, why, remedy = (printable(each, keep=400) for each in (what, why, remedy))
    return RecipeError(path, instruction.line, 0, line, what, why=why, remedy=remedy)
