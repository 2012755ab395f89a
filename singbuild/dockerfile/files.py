"""What COPY and ADD read: the files of a tree that they name, and those of the network.

Their digests are part of the lock and of the keys in the cache, so a step is done again when a
file that it copies has changed.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from singbuild import download
from singbuild.contract import Source
from singbuild.dockerfile import context, reader
from singbuild.dockerfile.evaluation import Copy
from singbuild.errors import RecipeError
from singbuild.file_tree import Entry, FileTree
from singbuild.formats.directory import Sandbox
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


def digests(recipe: Recipe, action: Copy, source: Source) -> Iterator[tuple[str, str]]:
    """Yield what an action reads of the context or the network: name and digest, for the lock."""
    overrides = Overrides((0, 0), None, 0)
    check(recipe, action)
    for name in () if action.stage else action.sources:
        total = hashlib.sha256()
        if name.startswith(URL):
            total.update(bytes.fromhex(fetched(action, name, source).sha256))
        else:
            with Sandbox(context.directory(recipe.path)) as tree:
                for entry in entries(recipe, action, tree, name):
                    ignored = left_out(recipe, action)
                    for piece in subtree(tree, entry, "it", changed=overrides, leave_out=ignored):
                        total.update(piece)
        yield f"{action.instruction.line} {name}", f"sha256:{total.hexdigest()}"


def entries(recipe: Recipe, action: Copy, tree: FileTree, name: str) -> list[Entry]:
    """Return what a source names. Raises RecipeError for nothing."""
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
    """Return the file of a URL, fetched. Raises SourceError."""
    sha256 = action.checksum.removeprefix("sha256:")
    return download.fetch(url, source.cache, report=source.report, sha256=sha256)


def check(recipe: Recipe, action: Copy) -> None:
    """Refuse sources that do not exist. Raises RecipeError."""
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
