"""The words that dnf 4 is told, to solve and to install, and what its output means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from singbuild import HostError, Program, RecipeKeyError, Rootfs, SourceError, command
from singbuild_yum import execution
from singbuild_yum.choice import BASE
from singbuild_yum.complaints import explained
from singbuild_yum.layout import Layout
from singbuild_yum.packages import Row

NAMES = ("dnf-3", "dnf", "yum")
"""What dnf 4 is called. The first is its own everywhere; the others may be another program's."""

LEFT_BEHIND = ("var/log/dnf*.log*", "var/log/hawkey.log*", "var/cache/dnf/*", "var/lib/dnf/*")

NO_MATCH = re.compile(r"(?:No match for argument|Unable to find a match|Argument): *(\S+)")
NO_GROUP = re.compile(r"Module or Group '([^']+)' ")
STEP = re.compile(r"\s*(Installing|Verifying)\s*:.*\s(\d+)/(\d+)\s*")


def program() -> Program:
    """Return the host's dnf: first dnf 4 beside a dnf 5; "dnf" where there is none."""
    return Program(next(filter(command.which, NAMES), "dnf"), "dnf")


def checked_version() -> str:
    """Return what dnf says of its version. Raises HostError: it is not dnf 4."""
    name = program().name
    text = command.version(name)
    match = re.search(r"\b(\d+)\.\d", text)
    if not match or match[1] != "4":
        first = text.partition("\n")[0] or "nothing"
        raise HostError(
            f"this host's {name} is not dnf 4",
            why=f"{name} --version says: {first}. "
            "Other versions take other options and tell otherwise what they will install.",
            remedy="Install dnf 4 (apt-get install dnf); it may stay beside the other as dnf-3.",
        )
    return text


def solve(
    layout: Layout, choice: Mapping[str, Any], root: Path, packages: Iterable[str]
) -> list[Row]:
    """Return the rows of the table that dnf prints before it would install.

    The table breaks lines as it likes, so every four words in a row may be one. packages: names,
    to guess what was meant. Raises RecipeKeyError, SourceError.
    """
    argv = [*_argv(layout, choice, root), "--assumeno", "install", *BASE, *choice["include"]]
    status, lines = execution.solve(argv, layout)
    # The answer "no" ends dnf with 1, like an error.
    if status and "Operation aborted." not in lines:
        raise _explained(lines, choice, packages)
    text = "\n".join(lines)
    words = re.split(r"^(?:Skipping|Transaction Summary)", text, flags=re.M)[0].split()
    return list(zip(words, words[1:], words[2:], words[3:], strict=False))


def install(layout: Layout, pins: Mapping[str, Any], rootfs: Rootfs) -> None:
    """Install the pinned packages, their scriptlets in a furnished image. Raises SourceError."""

    def show(line: str) -> None:
        if step := STEP.fullmatch(line):
            rootfs.report.progress(step[1], int(step[2]), int(step[3]))
        elif line.strip() and set(line) > {"="}:
            rootfs.report.line(line)

    argv = [*_argv(layout, pins, rootfs.root), "--assumeyes", "install", *BASE, *pins["include"]]
    status, lines = execution.install(argv, layout, rootfs, show)
    if status:
        raise _explained(lines, pins, ())


def _argv(layout: Layout, choice: Mapping[str, Any], root: Path) -> list[command.Word]:
    return [
        program().name,
        "--config",
        layout.config,
        "--installroot",
        root,
        f"--releasever={choice['releasever']}",
        "--noplugins",
        *(f"--setopt={option}" for option in choice["setopt"]),
    ]


def _explained(
    lines: list[str], choice: Mapping[str, Any], packages: Iterable[str]
) -> RecipeKeyError | SourceError:
    """What dnf complains about, in the recipe's words where it is the recipe's."""
    matches = (NO_MATCH.search(line) or NO_GROUP.search(line) for line in lines)
    first = next((n for n, line in enumerate(lines) if line.startswith("Error:")), -20)
    return explained(
        [match[1] for match in matches if match],
        choice["include"],
        BASE,
        packages,
        SourceError(
            "dnf cannot install these packages",
            why="\n".join(lines[first:][:40]),
            remedy="Correct Include, Excludes or SetOpt, "
            "or add a repository that has what is missing.",
        ),
    )
