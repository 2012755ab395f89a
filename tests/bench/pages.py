"""The shell blocks of README and docs/: found, and typed on a host whose changes are thrown away.

A fence "sh" is commands that must succeed; "console" is a session: each line "$ COMMAND" is
followed by its answer, in which "…" is any text, alone in its line any lines. HTML comments before
the fence say what a reader need not know:

    <!-- test: long; checkout -->       several words, see WORDS
    <!-- test: file NAME -->            the block, of any language, is the text of this file
    <!-- test: not here: REASON -->     cannot be executed on this host; it is counted and shown
    <!-- test: elsewhere: tests/… -->   that test executes it, and names the page
    <!-- before: COMMANDS -->           what a reader would have: files, an image, a variable

Blocks of a page are executed in order in the home of an ordinary user called "you". Those that
follow each other as the same user share a shell, with its directory and its variables.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from tests.bench import installation
from tests.bench.singrun_images import ROOT
from tests.bench.terminal import Terminal
from tests.bench.throwaway_host import USER, Host, throwaway_host

WORDS = {
    "long": "needs a network, or more than seconds: `make test-long` alone",
    "root": "executed as root of the throw-away host",
    "checkout": "executed in a copy of this checkout",
    "terminal": "typed at a terminal: a console whose answers are prompts and what is typed there",
    "file": "the block is the text of this file",
    "not here": "cannot be executed on this host, and why",
    "elsewhere": "the test that executes it",
}
COMMANDS = ("sh", "console")
# The recipes and errors of recipe-errors.md have a test of their own.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if page.name != "recipe-errors.md"),
]
END, FAILED = "\x1e", "\x1d"
"""Printed after each command, and where one fails."""
_FENCE = re.compile(r"((?:^<!--(?:(?!-->).)*-->\n+)*)^```([^\n]*)\n(.*?)^```$", re.M | re.S)
_COMMENT = re.compile(r"<!-- *(test|before): *(.*?)\s*-->", re.S)
_COMMAND = re.compile(r"^\$ ((?:.* << 'END'\n(?:.*\n)*?END|.*)\n)((?:(?!\$ ).*\n)*)", re.M)


@dataclass(frozen=True)
class Block:
    """One fence of a page. line: of its first line. words: WORDS of the comments before it."""

    page: Path
    line: int
    language: str
    text: str
    before: str
    words: dict[str, str]

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"

    @property
    def reason(self) -> str:
        """Why this bench leaves it out; "" when it does not."""
        return self.words.get("not here", "") or self.words.get("elsewhere", "")

    @property
    def is_ours(self) -> bool:
        """Whether there is something to do: a file to write, or commands."""
        return not self.reason and ("file" in self.words or self.language in COMMANDS)

    @property
    def number(self) -> int:
        """How many commands it shows."""
        if self.language == "console":
            return len(self.commands())
        return 0 if "file" in self.words else len(re.findall(r"^(?!#).*[^\\\n]$", self.text, re.M))

    def commands(self) -> list[tuple[str, str | None]]:
        """Commands, each with its answer; None where the page shows none."""
        if name := self.words.get("file"):
            return [(f"cat > {name} << 'END OF FILE'\n{self.text}END OF FILE\n", None)]
        if self.language == "sh":
            return [(self.text, None)]
        return list(_COMMAND.findall(self.text))


def blocks(page: Path) -> list[Block]:
    """Return the fences of a page, in order."""
    text = page.read_text()
    rows = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start(3)) + 1
        words: dict[str, str] = {}
        before = ""
        for kind, content in _COMMENT.findall(match[1]):
            if kind == "before":
                before += f"{content}\n"
                continue
            for word in content.split("; "):
                name = next((name for name in WORDS if word.startswith(name)), "")
                assert name, f"{page}:{line}: {word}"
                words[name] = word.removeprefix(name).lstrip(": ")
        rows.append(Block(page, line, match[2].strip(), match[3], before, words))
    return rows


def all_blocks() -> list[Block]:
    """Return the blocks of commands of all pages, and of files that they need."""
    every = (block for page in PAGES for block in blocks(page))
    return [b for b in every if b.language in COMMANDS or "file" in b.words]


def pages(*, long: bool) -> list[Path]:
    """Return the pages that have something to execute, in `make test` or in `make test-long`."""
    return [
        page
        for page in PAGES
        if any(block.is_ours and ("long" in block.words) == long for block in blocks(page))
    ]


def pattern(answer: str) -> str:
    """A regular expression for an answer of a page."""
    lines = answer.splitlines(keepends=True)
    return "".join(
        "(?:.*\n)*" if line == "…\n" else re.escape(line).replace("…", ".*") for line in lines
    )


def may_fail(answer: str | None) -> bool:
    """Whether a page shows that a command fails: by its message."""
    return bool(answer and re.search(r"^sing(?:build|run): (?:error: )?\S", answer, re.M))


def table() -> str:
    """Return what is executed and what is not, and why, a line for each block."""
    lines = []
    for block in all_blocks():
        when = "make test-long" if "long" in block.words else "make test"
        lines.append(f"{block.place}\t{block.number}\t{block.reason or when}")
    return "\n".join(lines)


def execute(page: Path, *, long: bool) -> Counter[str]:
    """Execute a page's blocks, and compare the answers; long: also of blocks marked so.

    Returns how many "commands" were executed, and how many "answers" of theirs were compared.
    """
    ours = [b for b in blocks(page) if b.is_ours and (long or "long" not in b.words)]
    count: Counter[str] = Counter()
    programs = installation.programs()
    checkout = programs.parents[1]  # where the run of the tests has them
    with throwaway_host(visible=[str(checkout)], programs=str(programs)) as host:
        host.run("sh", "-ec", _FURNISH, "furnish", f"{checkout}/checkout")
        for (root, typed), group in groupby(
            ours, lambda block: ("root" in block.words, "terminal" in block.words)
        ):
            in_order = _type if typed else _execute
            count += in_order(host, [*group], "root" if root else USER)
    return count


_FURNISH = f"""
cp -r "$1" /home/{USER}/singbuild
mkdir -p /data /scratch /images
chown -R {USER}: /home/{USER} /data /scratch /images
"""


def _execute(host: Host, group: Sequence[Block], who: str) -> Counter[str]:
    """Execute blocks in one shell, and compare their answers."""
    script = f'trap \'printf "{FAILED}%s: status %s\\n" "$BASH_COMMAND" $?\' ERR\n'
    parts: list[tuple[Block, str, str | None]] = []
    for block in group:
        if block.before:
            parts.append((block, block.before, None))
        if "checkout" in block.words:
            parts.append((block, f"cd /home/{USER}/singbuild\n", None))
        parts += [(block, command, answer) for command, answer in block.commands()]
        if "checkout" in block.words:
            parts.append((block, "cd ~\n", None))
    script += "".join(f"{command}printf '%s' '{END}'\n" for _, command, _ in parts)
    answers = host.run("bash", "-c", script, who=who).split(END)
    count = Counter(commands=sum(block.number for block in group))
    for (block, command, answer), text in zip(parts, answers, strict=False):
        where = f"{block.place}\n$ {command}{text}"
        assert FAILED not in text or may_fail(answer), where
        if answer is not None:
            output = re.sub(f"{FAILED}.*\n", "", text).expandtabs()
            assert re.fullmatch(pattern(answer), output), f"{where}\nThe page has:\n{answer}"
            count["answers"] += 1
    assert len(answers) == len(parts) + 1, f"{group[0].place}: the shell ended\n{answers[-1]}"
    return count


def _type(host: Host, group: Sequence[Block], who: str) -> Counter[str]:
    """Type at a terminal: the command of a block, then what its answer has behind prompts."""
    count: Counter[str] = Counter()
    for block in group:
        for command, answer in block.commands():
            words = host.words("bash", "-c", command, who=who)
            terminal = Terminal(partial(os.execvp, words[0], words))
            for line in (answer or "").splitlines():
                prompt, sign, typed = line.partition("> ")
                terminal.expect(re.escape(prompt + sign))
                if sign:
                    terminal.type(f"{typed}\n")
                    terminal.expect(re.escape(typed))
            terminal.type("exit\n")
            assert terminal.status() == 0, block.place
            count += Counter(commands=1, answers=1)
    return count


if __name__ == "__main__":
    print(table())
