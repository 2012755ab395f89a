"""What COPY, ADD and RUN --mount read: the files of a tree that they name, and of the network.

Their digests are part of the lock and of the keys in the cache, so a step is done again when a
file that it reads has changed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from singbuild import download
from singbuild.contract import Source
from singbuild.dockerfile import context, reader
from singbuild.dockerfile.evaluation import Copy, Run
from singbuild.errors import RecipeError
from singbuild.file_tree import DIRECTORY, Entry, FileTree
from singbuild.formats.recorded import Recorded
from singbuild.recipe.recipe import Recipe
from singbuild.tar.write import subtree

URL = ("http://", "https://")
GIT = ("git@", "git://", "ssh://")


@dataclass(frozen=True)
class Overrides:
    """The owner, mode and time that copied entries get; None for their own. epoch: seconds."""

    owner: tuple[int, int] | None
    mode: int | None
    epoch: int | None

    def __call__(self, info: tarfile.TarInfo) -> None:
        """Change an archive's header."""
        if self.owner is not None:
            info.uid, info.gid = self.owner
        if self.mode is not None and info.type != tarfile.SYMTYPE:
            info.mode = self.mode
        if self.epoch is not None:
            info.mtime = self.epoch


def names(action: Copy | Run) -> list[tuple[str, str]]:
    """Return what an action reads of the context or the network, each with its name in the lock."""
    if isinstance(action, Copy):
        sources = () if action.stage else action.sources
    else:
        binds = (each.fields for each in action.mounts if each.kind == "bind")
        sources = tuple(each.get("source", "/") for each in binds if "from" not in each)
    # All triggers have the line of the FROM that executes them.
    where = action.name if action.is_trigger else action.instruction.line
    return [(name, f"{where} {name}") for name in sources]


def digests(recipe: Recipe, action: Copy | Run, source: Source) -> Iterator[tuple[str, str]]:
    """Yield the digest of each source that ``names`` returns, with its name in the lock."""
    if isinstance(action, Copy):
        check(recipe, action)
    for name, key in names(action):
        if isinstance(action, Copy) and name.startswith(URL):
            yield key, f"sha256:{fetched(action, name, source).sha256}"
            continue
        with Recorded(context.directory(recipe.path)) as tree:
            if isinstance(action, Copy):
                for entry in entries(recipe, action, tree, name):
                    tree.record_name(entry)
                    _read(tree, tree.find(entry.path) or entry, left_out(recipe, action))
            elif mounted := tree.find(name):
                _read(tree, mounted, context.ignored(recipe.path), top=True)
            yield key, tree.digest


def _read(
    tree: Recorded, entry: Entry, ignored: Callable[[str], bool], *, top: bool = False
) -> None:
    """Read all that is copied of an entry. top: of a directory, also its own attributes."""
    top = top or entry.inode.kind != DIRECTORY
    for _ in subtree(tree, entry, "it", leave_out=ignored, top=top):
        pass


def entries(recipe: Recipe, action: Copy, tree: FileTree, name: str) -> list[Entry]:
    """Return the entries that a source names. Raises RecipeError when there are none."""
    matches = context.matching(tree, name, left_out(recipe, action))
    if not matches:
        where = f"the stage {action.stage}" if action.stage else "the context"
        raise reader.error(
            recipe.source,
            action.instruction,
            f"{where} has no {name}",
            remedy="Correct the path; .dockerignore may leave it out."
            if not action.stage
            else "Correct the path; it starts at the root of that stage.",
        )
    return matches


def left_out(recipe: Recipe, action: Copy) -> Callable[[str], bool]:
    """Return a predicate over paths: whether .dockerignore or --exclude excludes one."""
    ignored = (lambda _: False) if action.stage else context.ignored(recipe.path)
    excluded = context.matcher(action.exclude)
    return lambda path: ignored(path) or excluded(path)


def fetched(action: Copy, url: str, source: Source) -> download.Fetched:
    """Fetch a URL and return its file. Raises SourceError."""
    sha256 = action.checksum.removeprefix("sha256:")
    return download.fetch(url, source.cache, report=source.report, sha256=sha256)


def open_lines(action: Copy) -> Iterator[str]:
    """Yield the URLs of which anybody on the way can change the file, as it has no digest."""
    if not action.checksum:
        yield from filter(download.is_open_line, action.sources)


def check(recipe: Recipe, action: Copy) -> None:
    """Refuse sources that are Git repositories. Raises RecipeError."""
    for name in action.sources:
        if name.startswith(GIT) or (name.startswith(URL) and urlsplit(name).path.endswith(".git")):
            raise _no_git(recipe, action)


def _no_git(recipe: Recipe, action: Copy) -> RecipeError:
    return reader.error(
        recipe.source,
        action.instruction,
        "ADD of a git repository is not supported",
        remedy="Clone it in a RUN, or before the build.",
    )
