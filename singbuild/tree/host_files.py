"""%files: files of the host become files of the tree.

An archive of them is made on the way and unpacked into the tree, so that nothing in the tree leads
one elsewhere, and nobody who changes it meanwhile. Links on the host are followed.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath

from singbuild.errors import ImageError, RecipeError, SourceError
from singbuild.ext3.attributes import Attribute
from singbuild.file_tree import DIRECTORY, KINDS, DirEntry, Entry, PlainInode, inside
from singbuild.formats.directory import Sandbox
from singbuild.recipe.files import UNFINISHED, matches
from singbuild.recipe.grammar import CopyItem, Recipe
from singbuild.tar.write import moved
from singbuild.tree.rootfs import Rootfs


def copy(recipe: Recipe, item: CopyItem, rootfs: Rootfs) -> None:
    """Copy what a line of %files names from the host into the image.

    Sources are relative to the caller's directory and may hold shell patterns;
    links are followed, owners become root, modes are kept, times are the epoch. A destination
    that ends with a slash or is a directory is copied into; directories that are there stay as they
    are. Raises RecipeError.
    """
    sources = matches(recipe, item)
    for source in sources:
        try:
            _copy(rootfs, source, item.destination, many=len(sources) > 1)
        except (ImageError, SourceError) as error:
            raise RecipeError(
                recipe.path,
                item.line,
                0,
                recipe.line(item.line),
                f"%files: {error.what}",
                why=error.why,
                remedy=error.remedy,
            ) from error


def _copy(rootfs: Rootfs, source: str, destination: str, *, many: bool) -> None:
    """Copy as ``cp -rL SOURCE DESTINATION`` does: of ``.``, ``..`` and ``DIR/.`` what they hold."""
    target, name = PurePosixPath(destination or source), posixpath.basename(source.rstrip("/"))
    into = destination.endswith("/") or many or _kind(rootfs, target, follow=True) == DIRECTORY
    if destination and name.strip(".") and into:
        target /= name
    place = rootfs.path(target).relative_to(rootfs.root)
    with _HostFiles(source) as tree:
        top = tree.top()

        def is_new(entry: Entry) -> bool:
            below = os.fsdecode(entry.path[len(top.path) :].lstrip(b"/"))
            return _is_new(rootfs, PurePosixPath("/", place, below), entry)

        entries = filter(is_new, tree.walk(top))
        rootfs.adopt(moved(tree, entries, top, str(place), _roots(rootfs.baseline.epoch)))


def _is_new(rootfs: Rootfs, path: PurePosixPath, entry: Entry) -> bool:
    """Whether an entry is to be made. Raises ImageError where it cannot be, as cp(1) does."""
    there = _kind(rootfs, path)
    if there == entry.inode.kind == DIRECTORY:
        return False
    if there is None or DIRECTORY not in (there, entry.inode.kind):
        return True
    raise ImageError(
        f"{path} is a {there} in the image, and a {entry.inode.kind} is to be copied there",
        remedy="Name another destination; for a link to a directory, that directory.",
    )


def _kind(rootfs: Rootfs, path: PurePosixPath, *, follow: bool = False) -> str | None:
    status = rootfs.status(path, follow=follow)
    return KINDS[status.st_mode >> 12] if status else None


def _roots(epoch: int) -> Callable[[tarfile.TarInfo], None]:
    """Return what gives an archive's header to root, and the epoch's time."""

    def change(info: tarfile.TarInfo) -> None:
        info.uid = info.gid = 0
        info.mtime = epoch

    return change


class _HostFiles(Sandbox):
    """What a path of the host names, wherever links lead; a file with many names is many files."""

    def __init__(self, source: str) -> None:
        path = Path(source)
        self._name = "" if path.is_dir() else path.name
        super().__init__(path.parent if self._name else path)
        self._count = count(2)

    def top(self) -> Entry:
        """Return the entry of the path itself."""
        root = self.root()
        return self.named(root, (os.fsencode(self._name), 0, 0)) if self._name else root

    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names but for those of unfinished images."""
        listing = super().names(directory, parent)
        return tuple(each for each in listing if not UNFINISHED.fullmatch(os.fsdecode(each[0])))

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of a name, or of what a link of this name leads to."""
        path = inside(directory, name_row[0])
        with self._read(path):
            where = self._directory(directory.path)
            return Entry(path, self._inode(os.stat(name_row[0], dir_fd=where)))

    def attributes(self, _entry: Entry) -> tuple[Attribute, ...]:
        """Return none: they are the host's."""
        return ()

    def _open(self, path: bytes, flags: int) -> int:
        return os.open(path or b".", flags | os.O_CLOEXEC, dir_fd=self._root)

    def _inode(self, status: os.stat_result) -> PlainInode:
        return replace(super()._inode(status), number=next(self._count), links=1)
