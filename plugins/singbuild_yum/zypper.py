"""The one place that executes zypper: to solve, and to install.

libzypp works in the tree with the tree's own configuration, so all places are named: zypper(8).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from singbuild import RecipeKeyError, Rootfs, SourceError, command
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


def checked_version() -> str:
    """Return what zypper says of its version."""
    return command.version("zypper")


def solve(layout: Layout, choice: Mapping[str, Any], root: Path, known: Iterable[str]) -> list[Row]:
    """Return what zypper would install. Raises RecipeKeyError, SourceError.

    known: names of packages, to guess what was meant.
    """
    root.mkdir(exist_ok=True)
    argv = _argv(layout, root, choice, "--dry-run")
    if os.geteuid():
        argv = ["unshare", "--map-root-user", *argv]  # as for dnf
    lines: list[str] = []
    status = command.call(argv, env=_environment(layout), on_line=lines.append).status
    if status:
        raise _explained(lines, choice, known)
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
    for directory, mode in (("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755)):
        rootfs.mkdir(directory, mode)
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if step := STEP.match(line):
            rootfs.report.progress("Installing", int(step[1]), int(step[2]))
        elif line.strip() and not NOISE.search(line):
            rootfs.report.line(line)

    argv = _argv(layout, rootfs.root, pins)
    with rootfs.furnished():
        done = rootfs.host(argv, env=_places(layout), on_line=show, check=False)
    if done.status:
        raise _explained(lines, pins, ())
    for line in lines:
        if "scriptlet failed" in line:
            rootfs.report.warn(line.strip())
    # Of the package libzypp; zypper makes it too, but not each time.
    if "libzypp" not in (row["name"] for row in pins["packages"].values()):
        for path in rootfs.glob("var/lib/zypp"):
            rootfs.remove_tree(path)


def _argv(
    layout: Layout, root: Path, choice: Mapping[str, Any], *options: str
) -> list[command.Word]:
    """Return the words that install; writes which repositories there are."""
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


def _places(layout: Layout) -> dict[str, str]:
    return {"HOME": str(layout.home)}


def _environment(layout: Layout) -> dict[str, str]:
    return command.environment(_places(layout))


def _explained(
    lines: list[str], choice: Mapping[str, Any], known: Iterable[str]
) -> RecipeKeyError | SourceError:
    """What zypper complains about, in the recipe's words where it is the recipe's."""
    matches = (match for line in lines for match in NO_MATCH.finditer(unescape(line)))
    return explained(
        [match[1] or match[2] for match in matches],
        choice["include"],
        BASE,
        known,
        SourceError(
            "zypper cannot install these packages",
            why="\n".join(lines[-40:]),
            remedy="Correct Include, or add a repository that has what is missing.",
        ),
    )
