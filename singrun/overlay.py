"""Writable layers over a read-only image: a tmpfs, a directory, or another image. overlayfs.

A directory or image holds what was written in ``upper``; ``work`` is the
kernel's. One without ``upper`` can be laid over as it is, read-only.
"""

import errno
import os

from singrun import strategies, syscalls
from singrun.config import Site
from singrun.errors import RunError
from singrun.image import SANDBOX, Image, open_image
from singrun.mounts import attach
from singrun.request import Request

_NONE = "The kernel's overlay file system needs Linux 5.11 for ordinary users (modprobe overlay)."


def parse(word: str) -> tuple[str, bool]:
    """(path, read only) of DIR|IMAGE[:ro]."""
    path, colon, mode = word.rpartition(":")
    if colon and mode in ("ro", "rw"):
        return path, mode == "ro"
    return word, False


class Layers:
    """The layers of one launch, opened and locked; lowest first."""

    def __init__(self, request: Request, site: Site) -> None:
        self._images = [_opened(path, read_only=ro) for path, ro in request.overlays]
        self._tmpfs = request.writable_tmpfs
        self.writable = self._tmpfs or any(image.writable for image in self._images)
        self.lasting = self.writable and not self._tmpfs
        self.have_daemon = False
        self.wanted = bool(self._images) or self._tmpfs
        self._trees: list[int] = []
        _check_sense(request, self._images)
        if self.wanted and not site.on["enable overlay"]:
            remedy = "Ask the administrator to change it, or use --writable."
            why = f"{site.path} says: enable overlay = no."
            raise RunError("Cannot use an overlay", why=why, remedy=remedy)

    def mount(self, stage: str, *, privileged: bool, site: Site) -> None:
        """Mount the images of layers, as detached trees."""
        for number, image in enumerate(self._images):
            target = f"{stage}/layer{number}"
            os.mkdir(target)
            if image.writable and image.kind != SANDBOX and not privileged:
                raise _no_image_to_write(image)
            mounting = strategies.start(
                image, target, privileged=privileged, forced="", site=site, debug=False
            )
            self._trees.append(mounting.finish())
            self.have_daemon |= mounting.life >= 0

    def lay_over(self, root: str, stage: str, *, privileged: bool) -> str:
        """Lay them over the directory ``root``; return the directory that shows all."""
        lower, upper = [root], ""
        for number, (image, tree) in enumerate(zip(self._images, self._trees, strict=True)):
            place = f"{stage}/layer{number}"
            attach(tree, place)
            os.close(tree)
            if image.writable:
                upper = place
            else:
                lower.append(f"{place}/upper" if os.path.isdir(f"{place}/upper") else place)
        if self._tmpfs:
            upper = f"{stage}/written"
            os.mkdir(upper)
        return _overlay(lower[::-1], upper, f"{stage}/root", privileged=privileged)


def _overlay(lower: list[str], upper: str, target: str, *, privileged: bool) -> str:
    """Mount an overlay of ``lower``, topmost first, and ``upper`` on ``target``."""
    os.mkdir(target)
    options = "lowerdir=" + ":".join(lower)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    try:
        if upper:
            for name in ("upper", "work"):
                os.makedirs(f"{upper}/{name}", exist_ok=True)
            options += f",upperdir={upper}/upper,workdir={upper}/work"
        else:
            flags |= syscalls.MS_RDONLY
        options += "" if privileged else ",userxattr"
        syscalls.mount("overlay", target, "overlay", flags, options)
    except OSError as error:
        why = f"{error.strerror}."
        remedy = _NONE if error.errno in (errno.EPERM, errno.ENODEV, errno.EINVAL) else ""
        raise RunError("Cannot lay an overlay over the image", why=why, remedy=remedy) from None
    return target


def _opened(path: str, *, read_only: bool) -> Image:
    try:
        return open_image(path, writable=not read_only)
    except RunError as error:
        error.what = f"--overlay: {error.what}"
        if os.path.exists(path):
            error.remedy = f"For an overlay that is only read, say --overlay {path}:ro"
        raise


def _check_sense(request: Request, images: list[Image]) -> None:
    """Refuse two writable layers, and a layer over an image that is itself written."""
    writable = [image.path for image in images if image.writable]
    if request.writable_tmpfs:
        writable.append("--writable-tmpfs")
    remedy = "Say :ro for all overlays but one."
    if request.writable and (images or request.writable_tmpfs):
        what = "Cannot combine --writable with an overlay"
        raise RunError(what, remedy="Leave one of them out.")
    if len(writable) > 1:
        raise RunError(f"Two writable layers: {' and '.join(writable)}", remedy=remedy)


def _no_image_to_write(image: Image) -> RunError:
    why = "For ordinary users a FUSE daemon would mount it, and overlayfs writes to none of those."
    remedy = f"Use a directory instead, or say --overlay {image.path}:ro to read it."
    return RunError(f"Cannot write to the overlay {image.path}", why=why, remedy=remedy)
