"""%files: files of the host become files of the tree.

They are packed as an archive, which is unpacked into the tree, so that no link in the tree leads a
file elsewhere, not even one made meanwhile. Links on the host are followed. The digest of a source
is of names, modes and content; it is made before the build, for the lock, and of what was copied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath

from singbuild.errors import HostError, ImageError, RecipeError, SourceError
from singbuild.ext3.attributes import Attribute
from singbuild.file_tree import (
    DIRECTORY,
    KINDS,
    REGULAR,
    DirEntry,
    Entry,
    PlainInode,
    inside,
)
from singbuild.formats.recorded import Recorded
from singbuild.recipe.files import UNFINISHED, matches
from singbuild.recipe.grammar import CopyItem, Recipe
from singbuild.tar.write import moved
from singbuild.tree.rootfs import Rootfs


def digest(source: str) -> str:
    """Return the digest of what %files takes of a path. Raises HostError for what it cannot."""
    try:
        with _HostFiles(source) as tree:
            for entry in tree.walk(tree.top()):
                for _ in tree.data(entry) if entry.inode.kind == REGULAR else ():
                    pass
            return tree.digest
    except (HostError, ImageError) as error:
        what = f"%files: {error.what}"
        raise HostError(what, why=error.why, remedy=error.remedy) from error


def copy(recipe: Recipe, item: CopyItem, rootfs: Rootfs) -> dict[str, str]:
    """Copy what a line of %files names from the host into the image; return the digests by path.

    Sources are relative to the caller's directory and may hold shell patterns;
    links are followed, owners become root, modes are kept, times are the epoch. A destination
    that ends with a slash or is a directory is copied into; directories that are there stay as they
    are. Raises RecipeError.
    """
    sources = matches(recipe, item)
    digests = {}
    for source in sources:
        try:
            many = len(sources) > 1
            digests[source] = _copy(rootfs, source, item.destination, many=many)
        except (HostError, ImageError, SourceError) as error:
            raise RecipeError(
                recipe.path,
                item.line,
                0,
                recipe.line(item.line),
                f"%files: {error.what}",
                why=error.why,
                remedy=error.remedy,
            ) from error
    return digests


def _copy(rootfs: Rootfs, source: str, destination: str, *, many: bool) -> str:
    """Copy as ``cp -rL SOURCE DESTINATION`` does: of ``.``, ``..`` and ``DIR/.`` what they hold.

    Returns the digest of what was read.
    """
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
        return tree.digest


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


class _HostFiles(Recorded):
    """What a path of the host names, wherever links lead; a file with many names is many files."""

    def __init__(self, source: str) -> None:
        path = Path(source)
        self._name = "" if path.is_dir() else path.name
        self._identities: dict[bytes, tuple[int, int]] = {}  # of directories, by path
        with _explained(path):
            super().__init__(path.parent if self._name else path)
        self._count = count(2)

    def top(self) -> Entry:
        """Return the entry of the path itself."""
        root = self.root()
        return self.named(root, (os.fsencode(self._name), 0, 0)) if self._name else root

    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        """Return a directory's names but for those of unfinished images."""
        # %files may take the directory of the image: it would copy what it is writing.
        listing = super().names(directory, parent)
        return tuple(each for each in listing if not UNFINISHED.fullmatch(os.fsdecode(each[0])))

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        """Return the entry of a name, or of what a link of this name leads to."""
        path = inside(directory, name_row[0])
        with self._read(path):
            status = os.stat(name_row[0], dir_fd=self._directory(directory.path))
            self._check_circle(directory.path, status)
            if stat.S_ISDIR(status.st_mode):
                self._identities[path] = status.st_dev, status.st_ino
            return Entry(path, self._inode(status))

    def attributes(self, _entry: Entry) -> tuple[Attribute, ...]:
        """Return none: they are the host's."""
        return ()

    def record(self, entry: Entry) -> None:
        """Hash an entry: a directory that the tree has already, too."""
        name = b"." if self._name else entry.path or b"."
        row = (name, entry.inode.mode, self.content(entry).encode())
        # No name has a NUL, but one may have a line end: two trees must not give the same bytes.
        self.total.update(b"%s\0%o\0%s\n" % row)

    def _check_circle(self, above: bytes, status: os.stat_result) -> None:
        """Refuse a link to a directory that it is in. Raises OSError."""
        there = os.fstat(self._root)
        identity = status.st_dev, status.st_ino
        while above and self._identities.get(above) != identity:
            above = above.rpartition(b"/")[0]
        if above or identity == (there.st_dev, there.st_ino):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _open(self, path: bytes, flags: int) -> int:
        return os.open(path or b".", flags | os.O_CLOEXEC, dir_fd=self._root)

    def _inode(self, status: os.stat_result) -> PlainInode:
        return replace(super()._inode(status), number=next(self._count), links=1)

    @contextlib.contextmanager
    def _read(self, path: bytes) -> Iterator[None]:
        with _explained(self.path / os.fsdecode(path)):
            yield


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> HostError:
    """Return the error for something that %files cannot take; links are followed."""
    ways = (path, *path.parents) if error.errno == errno.ELOOP else (path,)
    if link := next((each for each in ways if each.is_symlink()), None):
        return HostError(
            f"{link} is a link to {link.readlink()}, which cannot be copied",
            why=f"{error.strerror}. The files that links lead to are copied, not the links.",
            remedy="Remove or correct the link, or make it in %post: ln -s TARGET NAME",
        )
    return HostError(f"{path}: {error.strerror}", remedy="Give yourself access to it.")
