"""Writes the man pages, of what the commands themselves say: python -m singbuild.cli.manpages DIR.

Knows nothing of the commands but that they have --help, and list in it what they can; the rest
is taken from the documents. click-man knows click's commands alone, which ``singrun`` is none
of, and help2man no verbs.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from singbuild import variables
from singbuild.cli import roff

DOCUMENTS = Path(__file__).parents[2] / "docs"
COMMANDS = {
    "singbuild": "turn a recipe into one file that holds a whole Linux environment",
    "singrun": "run programs in an image as the calling user",
    "singularity": "the commands of Singularity 2.x and 3.x",
    "apptainer": "the commands of Apptainer",
}
FORMATS = {  # pages of section 5: title, document, and the document's section, "" for all of it
    "singrun.conf": ("the site's defaults for launches", "runtime.md", "The site's file"),
    "singbuild.conf": ("the builder's places, mirrors, defaults, policy", "configuration.md", ""),
    "singbuild-recipe": ("what goes into an image", "recipe-format.md", ""),
}
_OF_BUILD = "singbuild"  # its page has the options and examples of its main command
_HEADING = re.compile(r"^([A-Z][^\n:]*)(?: \(.*\))?:(?:\n|(?= ))", re.M)


def main() -> None:
    """Write the pages into man1 and man5 of a directory: of all commands, or of those named."""
    directory, names = Path(sys.argv[1]), sys.argv[2:]
    for name in names or COMMANDS:
        _write(directory / f"man1/{name}.1", page(name))
    for name in FORMATS:
        _write(directory / f"man5/{name}.5", format_page(name))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def page(name: str) -> str:
    """Return the page of a command. man(7), man-pages(7)."""
    overview = output_of(name, "--help")
    parts = blocks(overview)
    main_command = blocks(output_of(name, "build", "--help")) if name == _OF_BUILD else {}
    options = [
        f"{title}:\n{text}" for title, text in (main_command or parts).items() if "ption" in title
    ]
    examples = main_command.get("Examples") or parts.get("Examples") or _examples(name, overview)
    titles = ("Usage", "About", "Example", "Exit", "Options")
    rest = [t for title, t in parts.items() if not title.startswith(titles)]
    about = "\n".join([parts["About"], *rest])
    used = name if name in ("singbuild", "singrun") else "singrun"
    sections = [
        _head(name, 1, COMMANDS[name]),
        f".SH SYNOPSIS\n{roff.literal(parts['Usage'])}",
        f".SH DESCRIPTION\n{roff.literal(about)}",
        ".SH COMMANDS",
        *(
            f".SS {verb}\n{roff.literal(output_of(name, verb, '--help'))}"
            for verb in verbs(overview)
        ),
        f".SH OPTIONS\n{roff.literal(''.join(options))}",
        ".SH EXIT STATUS\n" + roff.literal(overview[overview.rindex("Exit status") :]),
        ".SH ENVIRONMENT\n" + roff.table(section("variables.md", f"Read by `{used}`")),
        ".SH FILES\n" + roff.table(section("administration.md", "Places on disk")),
        f".SH EXAMPLES\n{roff.literal(examples)}",
        ".SH SEE ALSO\n" + ",\n".join(f".BR {each}" for each in _others(name)),
    ]
    return "\n".join(sections).replace(",\n.BR", "\n.BR") + "\n"


def format_page(name: str) -> str:
    """Return the page of a file's format."""
    what, document, title = FORMATS[name]
    text = section(document, title) if title else (DOCUMENTS / document).read_text()
    body = re.sub(r"\A# .*\n", "", text)
    others = "\n".join(f".BR {each}" for each in _others(name))
    return (
        f"{_head(name, 5, what)}\n.SH DESCRIPTION\n{roff.document(body)}\n.SH SEE ALSO\n{others}\n"
    )


def blocks(text: str) -> dict[str, str]:
    """Return the parts of a --help by their headings; what stands below "Usage:" in two parts."""
    texts: dict[str, str] = {}
    heads = [*_HEADING.finditer(text)]
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        end = following.start() if following else len(text)
        texts[head[1]] = text[head.end() : end]
    usage, _, about = text.partition("\n\n")
    until = next((head.start() for head in heads[1:]), len(text))
    return texts | {
        "Usage": usage.replace("Usage:", "").strip("\n"),
        "About": about[: until - len(usage) - 2],
    }


def section(document: str, title: str) -> str:
    """Return what stands below a heading of a document."""
    text = (DOCUMENTS / document).read_text()
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert match, f"{document} has no section {title}"
    return match[1]


def verbs(overview: str) -> list[str]:
    """Return what a command's --help lists: lines below a heading, or lists with commas."""
    below = re.search(r"^(?:Verbs|Commands)\b.*:\n((?:(?: .*)?\n)*?)(?=\n|\Z)", overview, re.M)
    if below:
        return re.findall(r"^  ([a-z][a-z-]*)\b", below[1], re.M)
    lists = re.findall(r"^[A-Z][a-z]+: +([a-z, ]+)$", overview, re.M)
    return [word for each in lists for word in each.split(", ")]


@functools.cache  # a process for each, and pages need some of them twice
def output_of(*words: str) -> str:
    """Return what a command prints; it stands beside our Python, or on the PATH."""
    beside = str(Path(sys.executable).parent)
    path = f"{beside}:{os.environ.get('PATH', os.defpath)}"
    # click wraps at the width of the terminal, and a page may not depend on who makes it.
    environment = os.environ | {"PATH": path, "COLUMNS": "80"}
    done = subprocess.run(
        ["env", *words], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def _examples(name: str, overview: str) -> str:
    """Return the examples of a command's verbs."""
    texts = (
        blocks(output_of(name, verb, "--help")).get("Examples", "") for verb in verbs(overview)
    )
    return "\n".join(text.strip("\n") for text in texts if text.strip())


def _head(name: str, number: int, what: str) -> str:
    # https://reproducible-builds.org/specs/source-date-epoch/
    day = time.strftime("%Y-%m-%d", time.gmtime(variables.epoch()))  # of None: today
    version = output_of("singrun", "--version").split()[-1]
    kind = {1: "User commands", 5: "File formats"}[number]
    return (
        f'.TH {name.upper()} {number} "{day}" "singbuild {version}" "{kind}"\n'
        f".SH NAME\n{name} \\- {what}"
    )


def _others(name: str) -> list[str]:
    pages = [(each, 1) for each in COMMANDS] + [(each, 5) for each in FORMATS]
    return [f"{other} ({number})" for other, number in pages if other != name]


if __name__ == "__main__":
    main()
