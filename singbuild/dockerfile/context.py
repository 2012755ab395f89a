"""The files that COPY and ADD name: which of a tree match, and what .dockerignore leaves out.

Source: the Dockerfile reference, "COPY"; Go's filepath.Match for the patterns.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from singbuild.file_tree import DIRECTORY, Entry, FileTree

_PATTERN = re.compile(r"[*?\[\\]")
_CLASS = re.compile(r"\[(?P<not>\^?)(?P<ranges>\](?:\\.|[^\]\\])*|(?:\\.|[^\]\\])+)\]", re.DOTALL)
_RANGE = re.compile(r"(\\.|.)(?:-(\\.|.))?", re.DOTALL)
LARGEST = 1 << 20  # characters of a .dockerignore


def directory(path: str) -> Path:
    """Return the context of a Dockerfile: the directory that it is in."""
    return Path.cwd() if path in ("-", "<stdin>") else Path(path).absolute().parent


def ignored(path: str) -> Callable[[str], bool]:
    """Return a predicate over paths of a Dockerfile's context: whether .dockerignore excludes one.

    ``NAME.dockerignore`` beside a Dockerfile wins over ``.dockerignore``.
    """
    for file in (Path(f"{path}.dockerignore"), directory(path) / ".dockerignore"):
        if file.is_file():
            with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                return matcher(lines.read(LARGEST).split("\n"))
    return lambda _: False


def matcher(lines: Sequence[str]) -> Callable[[str], bool]:
    """Return a predicate over paths: whether the last pattern that matches one excludes it.

    A pattern that matches a directory matches all below it; one with ``!`` does not exclude.
    """
    patterns = []
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        keeps = text.startswith("!")
        text = posixpath.normpath(text.lstrip("!").strip()).strip("/")
        if text not in ("", "."):
            patterns.append((not keeps, re.compile(_translated(text))))

    def is_left_out(path: str) -> bool:
        left_out = False
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        for leaves_out, pattern in patterns:
            if any(pattern.fullmatch(each) for each in above):
                left_out = leaves_out
        return left_out

    return is_left_out


def is_pattern(name: str) -> bool:
    """Whether a source may name nothing, as ``yarn.lock*`` does where there is none."""
    return not {*"*?["}.isdisjoint(name)


def matching(
    tree: FileTree, pattern: str, is_left_out: Callable[[str], bool], *, deep: bool = False
) -> list[Entry]:
    """Return what a pattern names, sorted. Links in the tree lead inside it.

    deep: ``**`` between slashes stands for directories in directories, or none.
    """
    normal = posixpath.normpath("/" + pattern).strip("/")
    paths = [""]
    for part in filter(None, normal.split("/")):
        if deep and part == "**":
            below = (each for above in paths for each in _directories(tree, above))
            paths = [*dict.fromkeys(below)]
        elif _PATTERN.search(part):
            match = re.compile(_translated(part))
            paths = [
                posixpath.join(above, name)
                for above in paths
                for name in _names(tree, above)
                if match.fullmatch(name)
            ]
        else:
            paths = [posixpath.join(above, part) for above in paths]
    entries = ((path, tree.find(path, follow=False)) for path in paths)
    return [entry for path, entry in entries if entry and not (path and is_left_out(path))]


def _directories(tree: FileTree, path: str) -> Iterator[str]:
    """Yield the path of a directory and of all below it; links are none."""
    paths = [path]
    while paths:
        above = paths.pop()
        entry = tree.find(above, follow=False)
        if entry and entry.inode.kind == DIRECTORY:
            yield above
            paths.extend(posixpath.join(above, name) for name in reversed(_names(tree, above)))


def _names(tree: FileTree, path: str) -> list[str]:
    entry = tree.find(path)
    if entry is None or entry.inode.kind != DIRECTORY:
        return []
    return [name.decode(errors="surrogateescape") for name, _, _ in tree.names(entry)]


@lru_cache(1024)
def _translated(pattern: str) -> str:
    """Return Go's pattern as a regular expression; ``**`` matches any number of directories."""
    return "".join(_pieces(pattern))


def _pieces(pattern: str) -> Iterator[str]:
    at, have_ends = 0, True
    while at < len(pattern):
        if pattern.startswith("**/", at):
            yield "(?:.*/)?"
            at += 3
        elif pattern.startswith("**", at):
            yield ".*"
            at += 2
        elif pattern[at] in "*?":
            yield "[^/]*" if pattern[at] == "*" else "[^/]"
            at += 1
        elif have_ends and (match := _CLASS.match(pattern, at)):
            yield _class(match["ranges"], match["not"])
            at = match.end()
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            yield re.escape(pattern[at + 1])
            at += 2
        else:
            have_ends = have_ends and pattern[at] != "["  # none for this one, so for no later one
            yield re.escape(pattern[at])
            at += 1


def _class(ranges: str, negation: str) -> str:
    """Return a class of characters as a regular expression; in an empty range there is none."""
    pairs = [(first[-1], (last or first)[-1]) for first, last in _RANGE.findall(ranges)]
    rows = [f"{re.escape(first)}-{re.escape(last)}" for first, last in pairs if first <= last]
    if not rows:
        return "[^/]" if negation else "(?!)"
    return f"[{negation}{''.join(rows)}]"
