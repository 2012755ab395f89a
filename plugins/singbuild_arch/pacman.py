"""The one place that executes pacman: to solve, and to install; all places are named, pacman(8)."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from singbuild import RecipeKeyError, Rootfs, Source, SourceError, command, confine
from singbuild.download import locked
from singbuild_arch.choice import BASE, Choice
from singbuild_arch.repository import Repository, packages

DATABASE = "/var/lib/pacman"
STEP = re.compile(r"\((\d+)/(\d+)\) (installing|reinstalling) .*")
NO_TARGET = re.compile(r"error: target not found: (\S+)")
# Who signed the packages has been checked, by the keys of the recipe and no others.
CONFIGURATION = """\
[options]
Architecture = {arch}
SigLevel = Never
LocalFileSigLevel = Never
CacheDir = {where}/packages
LogFile = {where}/log
GPGDir = {where}/gnupg
HookDir = {where}/hooks
"""


def solve(
    choice: Choice, repositories: Sequence[Repository], source: Source
) -> dict[str, dict[str, Any]]:
    """Return by name what pacman would install. Raises RecipeKeyError, SourceError, HostError."""
    index = {
        (each.name, package["name"], package["version"]): package
        for each in repositories
        for package in packages(each)
    }
    where = source.cache / "solving"
    lines: list[str] = []
    with locked(source.cache / "solving.part", source.report, "the list of packages"):
        shutil.rmtree(where, ignore_errors=True)  # what a killed build left
        try:
            (where / "root").mkdir(parents=True)
            argv = _argv(where, where / "root", where / "database", repositories, choice.arch)
            words = [*argv, "-Sp", "--print-format", "%r %n %v", BASE, *choice.include]
            env = command.environment()
            done = confine(words, where, env=env, on_line=lines.append)
        finally:
            shutil.rmtree(where, ignore_errors=True)
    if done.status:
        raise _explained(lines, choice.include, {name for _, name, _ in index})
    rows = [tuple(line.split(" ")) for line in lines]
    selection = [index[row] for row in rows if row in index]
    if not selection:
        raise SourceError(
            "pacman names no package that the repositories have", why="\n".join(lines)
        )
    return {package["name"]: package for package in sorted(selection, key=lambda p: str(p["name"]))}


def install(
    where: Path,
    pins: Mapping[str, Any],
    repositories: Sequence[Repository],
    files: Iterable[Path],
    rootfs: Rootfs,
) -> None:
    """Install the pinned packages, their scripts in a furnished image. Raises SourceError.

    where: a directory of the tree; files: of the packages, in the order of the pins.
    """
    for directory, mode in (("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755), ("/run", 0o755)):
        rootfs.mkdir(directory, mode)
    rootfs.mkdir("/tmp", 0o1777)  # noqa: S108 - of the image
    for directory in ("packages", "gnupg", "hooks"):
        (where / directory).mkdir()
    for package, file in zip(pins["packages"].values(), files, strict=True):
        shutil.copyfile(file, where / "packages" / package["file"])
    rootfs.mkdir(DATABASE)
    database = rootfs.path(DATABASE)
    argv = _argv(where, rootfs.root, database, repositories, "auto")
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if step := STEP.match(line):
            rootfs.report.progress("Installing", int(step[1]), int(step[2]))
        elif line.strip():
            rootfs.report.line(line)

    words = [*argv, "-S", "--noconfirm", "--noprogressbar", BASE, *pins["include"]]
    with rootfs.furnished():
        done = rootfs.host(words, on_line=show, check=False)
    if done.status:
        raise _explained(lines, pins["include"], ())
    for line in lines:
        if line.startswith("error:"):  # of a scriptlet or hook, for which pacman ends with 0
            rootfs.report.warn(line)
    rootfs.remove_tree(f"{DATABASE}/sync")
    _check_installed(pins, rootfs)


def _argv(
    where: Path, root: Path, database: Path, repositories: Sequence[Repository], arch: str
) -> list[command.Word]:
    """Return the first words; write the configuration and the indices."""
    text = CONFIGURATION.format(arch=arch, where=where)
    (database / "sync").mkdir(parents=True, exist_ok=True)
    for each in repositories:
        (database / "sync" / f"{each.name}.db").write_bytes(each.content)
        text += f"[{each.name}]\nServer = {where.as_uri()}/packages\n"
    configuration = where / "pacman.conf"
    configuration.write_text(text)
    return ["pacman", "--config", configuration, "--root", root, "--dbpath", database]


def _check_installed(pins: Mapping[str, Any], rootfs: Rootfs) -> None:
    """Refuse a tree that has other packages than the pinned ones. Raises SourceError."""
    entries = {Path(path).name for path in rootfs.glob(f"{DATABASE}/local/*-*".lstrip("/"))}
    names = {f"{p['name']}-{p['version']}" for p in pins["packages"].values()}
    if entries != names:
        raise SourceError(
            "pacman has not installed the packages that were pinned",
            why=f"differing: {', '.join(sorted(entries ^ names))}",
            remedy="Build again; if it stays so, report it with the log.",
        )


def _explained(
    lines: list[str], include: Sequence[str], packages: Iterable[str]
) -> RecipeKeyError | SourceError:
    """What pacman complains about, in the recipe's words where it is the recipe's."""
    for match in filter(None, map(NO_TARGET.search, lines)):
        if match[1] in include:
            near = difflib.get_close_matches(match[1], list(packages), n=3, cutoff=0.8)
            remedy = f"Did you mean {' or '.join(near)}?" if near else "It may be in another one."
            return RecipeKeyError(
                "Include", f"Include: the repositories have no {match[1]!r}", remedy=remedy
            )
    return SourceError(
        "pacman cannot install these packages",
        why="\n".join(lines[-40:]),
        remedy="Correct Include or Repositories.",
    )
