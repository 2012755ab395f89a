"""The one place that executes dnf: to solve, and to install."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from singbuild import HostError, RecipeKeyError, Rootfs, SourceError, command
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


def program() -> str:
    """Return the name of the host's dnf: first dnf 4 beside a dnf 5; "dnf" where there is none."""
    return next(filter(command.which, NAMES), "dnf")


def checked_version() -> str:
    """Return what dnf says of its version. Raises HostError: it is not dnf 4."""
    text = command.version(program())
    match = re.search(r"\b(\d+)\.\d", text)
    if not match or match[1] != "4":
        first = text.partition("\n")[0] or "nothing"
        raise HostError(
            f"this host's {program()} is not dnf 4",
            why=f"{program()} --version says: {first}. "
            "Other versions take other options and tell otherwise what they will install.",
            remedy="Install dnf 4 (apt-get install dnf); it may stay beside the other as dnf-3.",
        )
    return text


def solve(layout: Layout, choice: Mapping[str, Any], root: Path, known: Iterable[str]) -> list[Row]:
    """Return the rows of the table that dnf prints before it would install.

    The table breaks lines as it likes, so every four words in a row may be one. known: names of
    packages, to guess what was meant. Raises RecipeKeyError, SourceError.
    """
    argv = [*_argv(layout, choice, root), "--assumeno", "install", *BASE, *choice["include"]]
    if os.geteuid():
        argv = ["unshare", "--map-root-user", *argv]  # dnf insists, though nothing is installed
    done: list[str] = []
    status = command.call(argv, env=_environment(layout), on_line=done.append).status
    if status and "Operation aborted." not in done:
        raise _explained(done, choice, known)
    text = "\n".join(done)
    words = re.split(r"^(?:Skipping|Transaction Summary)", text, flags=re.M)[0].split()
    return list(zip(words, words[1:], words[2:], words[3:], strict=False))


def install(layout: Layout, pins: Mapping[str, Any], rootfs: Rootfs) -> None:
    """Install the pinned packages, their scriptlets in a furnished image. Raises SourceError."""
    for directory, mode in (("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755)):
        rootfs.mkdir(directory, mode)
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if step := STEP.fullmatch(line):
            rootfs.report.progress(step[1], int(step[2]), int(step[3]))
        elif line.strip() and set(line) > {"="}:
            rootfs.report.line(line)

    argv = [*_argv(layout, pins, rootfs.root), "--assumeyes", "install", *BASE, *pins["include"]]
    with rootfs.furnished():
        done = rootfs.host(argv, env={"HOME": str(layout.home)}, on_line=show, check=False)
    if done.status:
        raise _explained(lines, pins, ())
    # dnf ends with 0 when a scriptlet other than %pre fails.
    for line in lines:
        if "scriptlet failed" in line:
            rootfs.report.warn(line.strip())


def _argv(layout: Layout, choice: Mapping[str, Any], root: Path) -> list[command.Word]:
    return [
        program(),
        "--config",
        layout.config,
        "--installroot",
        root,
        f"--releasever={choice['releasever']}",
        "--noplugins",
        *(f"--setopt={option}" for option in choice["setopt"]),
    ]


def _environment(layout: Layout) -> dict[str, str]:
    return command.environment({"HOME": str(layout.home)})


def _explained(
    lines: list[str], choice: Mapping[str, Any], known: Iterable[str]
) -> RecipeKeyError | SourceError:
    """What dnf complains about, in the recipe's words where it is the recipe's."""
    matches = (NO_MATCH.search(line) or NO_GROUP.search(line) for line in lines)
    first = next((n for n, line in enumerate(lines) if line.startswith("Error:")), -20)
    return explained(
        [match[1] for match in matches if match],
        choice["include"],
        BASE,
        known,
        SourceError(
            "dnf cannot install these packages",
            why="\n".join(lines[first:][:40]),
            remedy="Correct Include, Excludes or SetOpt, "
            "or add a repository that has what is missing.",
        ),
    )
