"""Writes the man pages, of what the commands themselves say: python -m singbuild.cli.manpages DIR.

Knows nothing of the commands but that they have --help, and list in it what they can. click-man
knows click's commands alone, which ``singrun`` is none of, and help2man no verbs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "singbuild": "turn a recipe into one file that holds a whole Linux environment",
    "singrun": "run programs in an image as the calling user",
    "singularity": "the commands of Singularity 2.x and 3.x",
    "apptainer": "the commands of Apptainer",
}


def main() -> None:
    """Write the pages into the directory that the command line names."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        (directory / f"{name}.1").write_text(page(name))


def page(name: str) -> str:
    """Return the page of a command. man(7)."""
    overview = said(name, "--help")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    day = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    version = said(name, "--version").split()[-1]
    others = [f"{other}(1)" for other in COMMANDS if other != name]
    parts = [
        f'.TH {name.upper()} 1 "{day}" "{name} {version}" "User commands"',
        f".SH NAME\n{name} \\- {COMMANDS[name]}",
        f".SH DESCRIPTION\n{literal(overview)}",
        ".SH COMMANDS",
        *(f".SS {verb}\n{literal(said(name, verb, '--help'))}" for verb in verbs(overview)),
        f".SH SEE ALSO\n{', '.join(others)}",
    ]
    return "\n".join(parts) + "\n"


def verbs(overview: str) -> list[str]:
    """Return what a command's --help lists: lines below a heading, or lists with commas."""
    below = re.search(r"^(?:Verbs|Commands)\b.*:\n((?:(?: .*)?\n)*?)(?=\n|\Z)", overview, re.M)
    if below:
        return re.findall(r"^  ([a-z][a-z-]*)\b", below[1], re.M)
    lists = re.findall(r"^[A-Z][a-z]+: +([a-z, ]+)$", overview, re.M)
    return [word for each in lists for word in each.split(", ")]


def said(*words: str) -> str:
    """Return what a command prints; it stands beside our Python, or on the PATH."""
    beside = str(Path(sys.executable).parent)
    path = f"{beside}:{os.environ.get('PATH', os.defpath)}"
    environment = os.environ | {"PATH": path, "COLUMNS": "80"}
    done = subprocess.run(
        ["env", *words], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def literal(text: str) -> str:
    """Return lines to be shown as they are."""
    escaped = text.strip("\n").replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    lines = [f"\\&{line}" if line.startswith(".") else line for line in escaped.splitlines()]
    return "\n".join([".nf", *lines, ".fi"])


if __name__ == "__main__":
    main()
