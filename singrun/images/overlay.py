"""Writable layers over a read-only image: a tmpfs, a directory, or another image. overlayfs.

A directory or image holds what was written in ``upper``; ``work`` is the
kernel's. One without ``upper`` can be laid over as it is, read-only.
"""

import errno
import os

from singrun import syscalls
from singrun.config import Site
from singrun.errors import RunError, UnavailableError, spelling
from singrun.images import strategies
from singrun.images.image import SANDBOX, Image, open_image
from singrun.mounts.rows import attach
from singrun.request import ImageOptions

_DESCRIPTORS = "/proc/self/fd/"
_NONE = "The kernel's overlay file system needs Linux 5.11 for ordinary users (modprobe overlay)."


class Layers:
    """The layers of one launch, opened and locked; lowest first."""

    def __init__(self, options: ImageOptions, site: Site) -> None:
        self.images = [_open(path, read_only=ro) for path, ro in options.overlays]
        self.has_tmpfs = options.writable_tmpfs
        _check_sense(options, self.images)
        if (self.images or self.has_tmpfs) and not site.on["enable overlay"]:
            remedy = "Ask the administrator to change it, or use --writable."
            why = f"{site.path} says: enable overlay = no."
            raise RunError("Cannot use an overlay", why=why, remedy=remedy)

    def mount(self, tmpfs: str, tree: int, *, privileged: bool, site: Site) -> "Overlay":
        """Mount the images of layers as detached trees, to be laid over the image's ``tree``.

        fuse-overlayfs, where it is needed, has laid them over it on return; else Overlay.lay_over
        has the kernel do it, in the mount namespace of the program.
        """
        layers = strategies.DetachedTrees(
            self.images, f"{tmpfs}/layer", privileged=privileged, site=site
        )
        overlay = Overlay(self, tree, layers)
        if self._want_fuse(layers, privileged=privileged):
            return Overlay(self, overlay.lay_over_by_fuse(tmpfs), layers, is_laid=True)
        return overlay

    def _want_fuse(self, layers: strategies.DetachedTrees, *, privileged: bool) -> bool:
        """Whether fuse-overlayfs has to do it, or has perhaps written what is read now.

        The kernel writes to no FUSE file system, root's of a container without loop devices
        neither. fuse-overlayfs does, but cannot make the kernel's whiteouts there; what it makes
        in their place only it understands.
        """
        if layers.writable_images:
            return True
        if privileged or all(image.kind == SANDBOX for image in self.images):
            return False
        from singrun.images import fuse  # most overlays are the kernel's

        return fuse.has_device() and bool(fuse.host_program(fuse.FUSE_OVERLAYFS))


class Overlay:
    """The image's tree with its layers, mounted. is_laid: ``tree`` shows them already."""

    def __init__(
        self, layers: Layers, tree: int, trees: strategies.DetachedTrees, *, is_laid: bool = False
    ) -> None:
        self.tree, self._layers, self._trees = tree, layers, trees
        self.writable_images = trees.writable_images
        self.have_daemon, self.is_laid = is_laid or trees.have_daemon, is_laid

    @property
    def writable(self) -> bool:
        """Whether the program may write."""
        return self._layers.has_tmpfs or self.lasting

    @property
    def lasting(self) -> bool:
        """Whether what the program writes outlasts the launch."""
        return any(image.writable for image in self._layers.images)

    def lay_over_by_fuse(self, tmpfs: str) -> int:
        """Return a tree that fuse-overlayfs serves; this namespace keeps none of the mounts."""
        from singrun.images import fuse

        place, target = f"{tmpfs}/image", f"{tmpfs}/root"
        attach(self.tree, place)
        os.close(self.tree)
        lower, upper = self._attach(place, tmpfs)
        os.mkdir(target)
        try:
            tree = fuse.start_overlay([*map(_name, lower)], [*map(_name, upper)], target).finish()
            _close(lower + upper)
        except UnavailableError as error:
            raise _no_overlay(self._layers.images, error) from None
        # fuse-overlayfs has them open. Mounts left here would keep their daemons from ending.
        for path in (place, *(f"{tmpfs}/layer{n}" for n in range(len(self._layers.images)))):
            syscalls.umount2(path, syscalls.MNT_DETACH)
        return tree

    def lay_over(self, root: str, tmpfs: str, *, privileged: bool) -> str:
        """Lay the layers over the directory ``root``; return the directory that shows all."""
        lower, upper = self._attach(root, tmpfs)
        target = _overlay(lower, upper, f"{tmpfs}/root", privileged=privileged)
        _close(lower + upper)
        return target

    def _attach(self, root: str, tmpfs: str) -> tuple[list[str], list[str]]:
        """Attach the trees below ``tmpfs``; return what is read, topmost first; upper, work."""
        lower, upper = [root], list[str]()
        for number, (image, tree) in enumerate(zip(self._layers.images, self._trees.trees)):
            place = f"{tmpfs}/layer{number}"
            attach(tree, place)
            os.close(tree)
            if image.writable:
                upper = [_part(place, name, image.path, make=True) for name in ("upper", "work")]
            else:
                lower.append(_part(place, "upper", image.path) or place)
        if self._layers.has_tmpfs:
            upper = [f"{tmpfs}/upper", f"{tmpfs}/work"]
            for path in upper:
                os.mkdir(path)
        return lower[::-1], upper


def _part(place: str, name: str, image: str, *, make: bool = False) -> str:
    """Return a path of the directory ``name`` in the layer at ``place``; "" if there is none.

    It is that of a descriptor: a link of this name, or one that somebody puts in its place, could
    lead to the host's files. openat2(2).
    """
    top = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        # mkdir(2) at a link of this name fails with EEXIST, and follows nothing.
        if make and not os.path.lexists(f"{place}/{name}"):
            os.mkdir(name, dir_fd=top)
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        fd = syscalls.openat2(top, name, os.O_PATH | os.O_DIRECTORY, resolve)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not make:
            return ""
        why = f"{error.strerror}."
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            why = f"What it has as {name} is no directory."
        raise RunError(f"Cannot use the overlay {image}", why=why) from None
    finally:
        os.close(top)
    return f"{_DESCRIPTORS}{fd}"


def _close(paths: list[str]) -> None:
    """Close the descriptors of _part(): open, they would keep a FUSE daemon from ending."""
    for path in paths:
        if path.startswith(_DESCRIPTORS):
            os.close(int(path.removeprefix(_DESCRIPTORS)))


def _name(path: str) -> str:
    """Return what another process can open: nobody changes these layers in between."""
    return os.readlink(path) if path.startswith(_DESCRIPTORS) else path


def _overlay(lower: list[str], upper: list[str], target: str, *, privileged: bool) -> str:
    """Mount an overlay of ``lower``, topmost first, and ``upper``, with its work, on ``target``."""
    os.mkdir(target)
    options = "lowerdir=" + ":".join(lower)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    try:
        if upper:
            options += f",upperdir={upper[0]},workdir={upper[1]}"
        else:  # several lower layers and no upper one: such an overlay is read-only anyway
            flags |= syscalls.MS_RDONLY
        # Whiteouts in user.overlay.*: trusted.* needs CAP_SYS_ADMIN in the first user namespace.
        # Kernel, Documentation/filesystems/overlayfs.rst, "User xattr"; Linux 5.11.
        options += "" if privileged else ",userxattr"
        syscalls.mount("overlay", target, "overlay", flags, options)
    except OSError as error:
        why = f"{error.strerror}."
        remedy = _NONE if error.errno in (errno.EPERM, errno.ENODEV, errno.EINVAL) else ""
        raise RunError("Cannot lay an overlay over the image", why=why, remedy=remedy) from None
    return target


def _open(path: str, *, read_only: bool) -> Image:
    try:
        image = open_image(path, writable=not read_only)
        image.is_data = True
        if image.kind == SANDBOX and not read_only:
            _check_overlay(image)
        return image
    except RunError as error:
        error.what = f"--overlay: {error.what}"
        if not os.path.lexists(path):
            error.remedy = f"For an overlay that is a directory, make it first: mkdir {path}"
        elif os.path.exists(path):
            error.remedy = f"For an overlay that is only read, say --overlay {path}:ro"
        raise


def _check_overlay(image: Image) -> None:
    """Refuse a directory of files that was never an overlay: upper and work would lie among them.

    Singularity and Apptainer take any.
    """
    names = {*os.listdir(image.fd)} - {"lost+found"}
    if not names or "upper" in names or spelling():
        return
    why = f"It holds other files, such as {min(names)}, and no directory upper."
    remedy = "Name an empty directory (mkdir overlay)."
    raise RunError(f"{image.path} is no overlay", why=why, remedy=remedy)


def _check_sense(options: ImageOptions, images: list[Image]) -> None:
    """Refuse two writable layers, and a layer over an image that is itself written."""
    writable = [image.path for image in images if image.writable]
    if options.writable_tmpfs:
        writable.append("--writable-tmpfs")
    remedy = "Say :ro for all overlays but one."
    if options.writable and (images or options.writable_tmpfs):
        what = "Cannot combine --writable with an overlay"
        raise RunError(what, remedy="Leave one of them out.")
    if len(writable) > 1:
        raise RunError(f"Two writable layers: {' and '.join(writable)}", remedy=remedy)


def _no_overlay(images: list[Image], error: UnavailableError) -> RunError:
    why = f"{error.what}. {error.why}".rstrip()
    remedy = f"{error.remedy} Or use a directory instead".lstrip()
    for path in (image.path for image in images if image.writable):
        why = f"That needs fuse-overlayfs, where the kernel cannot mount the image, and: {why}"
        remedy = f"{remedy}, or say --overlay {path}:ro to read it."
        return RunError(f"Cannot write to the overlay {path}", why=why, remedy=remedy)
    return RunError(f"Cannot read the overlay {images[0].path}", why=why, remedy=f"{remedy}.")
