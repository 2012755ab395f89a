"""The words that zypper is told, to solve and to install, and what its output means.

libzypp works in the tree with the tree's own configuration, so all places are named: zypper(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from singbuild import Program, RecipeKeyError, Rootfs, SourceError, command
from singbuild_yum import execution
from singbuild_yum.complaints import explained
from singbuild_yum.layout import Layout
from singbuild_yum.packages import Row

BASE = ("aaa_base",)
"""What every image gets, as in Singularity: SUSE's smallest system."""
LEFT_BEHIND = (
    *("var/log/zypp", "var/log/zypper.log", "var/cache/zypp", "run/zypp.pid"),
    *("var/run/zypp.pid", "var/lib/zypp/*", "var/adm/mount"),
)

NO_MATCH = re.compile(
    r"No provider of '([^']+)' found|"
    r"'([^']+)' (?:not found in package names|is not a package name)"
)
# Debian's rpm thinks of Debian; the signatures were checked before.
NOISE = re.compile(r"^rpm: |^Additional rpm output|: NOKEY$")
STEP = re.compile(r"\((\d+)/(\d+)\) Installing: (\S+) .*")


def program() -> Program:
    """Return the host's zypper."""
    return Program("zypper", "zypper")


def checked_version() -> str:
    """Return what zypper says of its version."""
    return command.version("zypper")


def solve(
    layout: Layout, choice: Mapping[str, Any], root: Path, packages: Iterable[str]
) -> list[Row]:
    """Return what zypper would install. Raises RecipeKeyError, SourceError.

    packages: names, to guess what was meant.
    """
    root.mkdir(exist_ok=True)
    status, lines = execution.solve(_argv(layout, root, choice, "--dry-run"), layout)
    if status:
        raise _explained(lines, choice, packages)
    try:
        # The names are the repositories', whose XML has been read before.
        answer = ElementTree.fromstring("\n".join(lines))  # noqa: S314
    except ElementTree.ParseError as error:
        raise SourceError("zypper cannot be understood", why=f"{error}") from error
    rows = (each.attrib for each in answer.iterfind(".//to-install/solvable[@type='package']"))
    names = ("name", "arch", "edition", "repository")
    return [
        (row[0], row[1], row[2], row[3]) for row in ([r.get(n, "") for n in names] for r in rows)
    ]


def install(layout: Layout, pins: Mapping[str, Any], rootfs: Rootfs) -> None:
    """Install the pinned packages, their scriptlets in a furnished image. Raises SourceError."""

    def show(line: str) -> None:
        if step := STEP.match(line):
            rootfs.report.progress("Installing", int(step[1]), int(step[2]))
        elif line.strip() and not NOISE.search(line):
            rootfs.report.line(line)

    argv = _argv(layout, rootfs.root, pins)
    status, lines = execution.install(argv, layout, rootfs, show)
    if status:
        raise _explained(lines, pins, ())
    # The directory is the package libzypp's; zypper makes it too, but not each time.
    if "libzypp" not in (row["name"] for row in pins["packages"].values()):
        for path in rootfs.glob("var/lib/zypp"):
            rootfs.remove_tree(path)


def _argv(
    layout: Layout, root: Path, choice: Mapping[str, Any], *options: str
) -> list[command.Word]:
    """Return the words that install; write a file for each repository."""
    places = layout.where / "zypp"
    (places / "repos.d").mkdir(parents=True, exist_ok=True)
    for directory in (layout.where / "repositories").iterdir():
        # Who signed the packages has been checked, by the keys of the recipe and no others.
        lines = [f"[{directory.name}]", f"name={directory.name}", "enabled=1", "autorefresh=0"]
        lines += [f"baseurl={directory.as_uri()}", "type=rpm-md", "gpgcheck=0"]
        (places / "repos.d" / f"{directory.name}.repo").write_text("\n".join(lines) + "\n")
    return [
        "zypper",
        *(["--xmlout"] if options else []),
        "--non-interactive",
        "--no-gpg-checks",
        "--root",
        root,
        "--reposd-dir",
        places / "repos.d",
        "--cache-dir",
        places / "cache",
        "install",
        *options,
        "--auto-agree-with-licenses",
        *BASE,
        *choice["include"],
    ]


def _explained(
    lines: list[str], choice: Mapping[str, Any], packages: Iterable[str]
) -> RecipeKeyError | SourceError:
    """What zypper complains about, in the recipe's words where it is the recipe's."""
    matches = (match for line in lines for match in NO_MATCH.finditer(unescape(line)))
    return explained(
        [match[1] or match[2] for match in matches],
        choice["include"],
        BASE,
        packages,
        SourceError(
            "zypper cannot install these packages",
            why="\n".join(lines[-40:]),
            remedy="Correct Include, or add a repository that has what is missing.",
        ),
    )
