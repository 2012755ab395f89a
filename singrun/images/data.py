"""Images of which a directory is bound: ``--bind FILE:DST:image-src=DIR``.

An ext3 image that the caller may write is mounted writable, unless the bind is read-only.
"""

import os

from singrun import syscalls
from singrun.config import Site
from singrun.errors import RunError
from singrun.images.image import EXT3, Image, open_image
from singrun.images.strategies import DetachedTrees
from singrun.mounts.rows import ImageDirectory, attach


class DataImages:
    """Those of one launch, opened and locked."""

    def __init__(self, rows: list[ImageDirectory]) -> None:
        self._rows = [(row, _open(row)) for row in rows]

    def mount(self, tmpfs: str, *, privileged: bool, site: Site) -> DetachedTrees:
        """Mount them as detached trees."""
        images = [image for _, image in self._rows]
        return DetachedTrees(images, f"{tmpfs}/data", privileged=privileged, site=site)

    def attach_rows(self, trees: list[int], tmpfs: str) -> None:
        """Give each row the directory that it shows.

        Not in a namespace that a FUSE daemon is in: one whose namespace holds its own mount never
        ends.
        """
        for number, ((row, _), tree) in enumerate(zip(self._rows, trees)):
            place = f"{tmpfs}/data{number}"
            attach(tree, place)
            os.close(tree)
            row.tree = _directory(row, place)
            syscalls.umount2(place, syscalls.MNT_DETACH)


def _open(row: ImageDirectory) -> Image:
    image = open_image(row.source)
    if image.kind == EXT3 and not row.read_only and os.access(row.source, os.W_OK):
        os.close(image.fd)  # and with it the lock of a reader
        image = open_image(row.source, writable=True)
    row.read_only, image.is_data = row.read_only or not image.writable, True
    return image


def _directory(row: ImageDirectory, place: str) -> int:
    """Return a detached copy of the file or directory of the image at ``place``."""
    top = os.open(place, os.O_PATH | os.O_DIRECTORY)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
    try:
        name = row.directory.strip("/") or "."
        fd = syscalls.openat2(top, name, os.O_PATH, syscalls.RESOLVE_IN_ROOT)
        return syscalls.open_tree(fd, "", flags)
    except OSError as error:
        what = f"There is no {row.directory} in {row.source}"
        raise RunError(what, why=f"{error.strerror}.", remedy="Say image-src=/ for all.") from None
    finally:
        os.close(top)
