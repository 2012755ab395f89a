"""Copies what ``%files from STAGE`` names out of the image of an earlier stage, into the tree.

The source is read from the image's bytes: no link in it leads anywhere else. Links that a line
names are followed, in the stage; those in a directory are copied as links. Owners are kept.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
import stat
from pathlib import Path, PurePosixPath

from singbuild.errors import RecipeError
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import FileTree
from singbuild.recipe.recipe import CopyItem, Recipe
from singbuild.tar.write import subtree
from singbuild.tree.rootfs import Rootfs

_PATTERN = re.compile(r"[*?[]")


def copy(recipe: Recipe, item: CopyItem, image: Path, rootfs: Rootfs) -> None:
    """Copy what one line names. Raises RecipeError when the stage has nothing of that name."""
    with Image(image) as stage:
        names = matches(stage, item.source)
        if not names:
            raise RecipeError(
                recipe.path,
                item.line,
                0,
                recipe.line(item.line),
                f"%files from {item.stage}: the stage has no {item.source}",
                remedy="Correct the path; it starts at the root of the stage's tree.",
            )
        for name in names:
            entry = stage.find(name)
            assert entry
            rootfs.unpack([subtree(stage, entry, _target(rootfs, item, name, len(names)))])


def matches(image: FileTree, pattern: str) -> list[str]:
    """Return the paths in an image that match a shell pattern, sorted; links are followed."""
    reached = ["/"]
    for part in PurePosixPath("/", pattern).parts[1:]:
        reached = [
            posixpath.join(above, name)
            for above in reached
            for name in (_names(image, above) if _PATTERN.search(part) else [part])
            if not _PATTERN.search(part) or _is_match(name, part)
        ]
    return [path for path in reached if image.find(path)]


def _is_match(name: str, part: str) -> bool:
    # As in a shell: no pattern's * stands for the dot of a hidden name.
    hidden = name.startswith(".") and not part.startswith(".")
    return fnmatch.fnmatchcase(name, part) and not hidden


def _names(image: FileTree, directory: str) -> list[str]:
    entry = image.find(directory)
    if entry is None or not stat.S_ISDIR(entry.inode.mode):
        return []
    return [name.decode(errors="surrogateescape") for name, _, _ in image.names(entry)]


def _target(rootfs: Rootfs, item: CopyItem, name: str, count: int) -> str:
    """Return where a source goes: into a destination that is a directory, or ends with a slash."""
    destination = item.destination or item.source
    status = rootfs.status(destination)
    is_directory = status is not None and stat.S_ISDIR(status.st_mode)
    if item.destination and (destination.endswith("/") or count > 1 or is_directory):
        return str(PurePosixPath(destination) / PurePosixPath(name).name)
    return name if not item.destination else destination
