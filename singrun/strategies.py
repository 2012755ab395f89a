"""How an image becomes a directory: loop, fuse2fs, or a bind of what is one already."""

import errno
import os

from singrun import fuse, loop, syscalls
from singrun.errors import RunError, say
from singrun.image import SANDBOX, Image
from singrun.mounts import IMAGE_ATTRIBUTES, attach, clone, restrict

LOOP, FUSE2FS, BIND = "loop", "fuse2fs", "bind"
NAMES = [LOOP, FUSE2FS]
_NO_DEVICE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV)


def mount(image: Image, target: str, *, privileged: bool, forced: str, debug: bool) -> None:
    """Mount ``image`` read-only, nosuid and nodev on the directory ``target``.

    privileged: whether we hold the host's privilege. forced: a name of NAMES, or "".
    """
    name = _chosen(image, privileged=privileged, forced=forced)
    if image.dirty:
        say(f"{image.path} was not unmounted cleanly; reading it without its journal.")
        say(f"Repair it with: e2fsck -f {image.path}")
    if debug:
        say(f"{name} mounts {image.path}, offset {image.offset}")
    {LOOP: _mount_loop, FUSE2FS: _mount_fuse, BIND: _mount_bind}[name](image, target)


def _chosen(image: Image, *, privileged: bool, forced: str) -> str:
    if image.kind == SANDBOX:
        return BIND
    if forced == LOOP and not privileged:
        why = "Only root may use loop devices."
        raise RunError("Cannot mount with loop", why=why, remedy="Leave --mount-with out.")
    if forced:
        return forced
    return LOOP if privileged and os.path.exists("/dev/loop-control") else FUSE2FS


def _mount_loop(image: Image, target: str) -> None:
    """By the kernel. The superblock may ask for a panic on errors: errors= overrides that."""
    options = "errors=remount-ro" + (",noload" if image.dirty else "")
    try:
        device, fd = loop.attach(image.fd, image.offset, read_only=True)
    except OSError as error:
        raise _no_loop(error) from None
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
    try:
        syscalls.mount(device, target, "ext3", flags, options)
    except OSError as error:
        remedy = f"Check it with: e2fsck -fn {image.path}"
        why = f"The kernel says: {error.strerror}."
        raise RunError(f"Cannot mount {image.path}", why=why, remedy=remedy) from None
    finally:
        os.close(fd)


def _no_loop(error: OSError) -> RunError:
    remedy = "Free loop devices, or use --mount-with fuse2fs."
    if error.errno in _NO_DEVICE:
        remedy = "Give this host loop devices (modprobe loop), or use --mount-with fuse2fs."
    return RunError("Cannot get a loop device", why=f"{error.strerror}.", remedy=remedy)


def _mount_fuse(image: Image, target: str) -> None:
    fuse.start(image.path, image.offset, dirty=image.dirty, target=target).finish()


def _mount_bind(image: Image, target: str) -> None:
    tree = clone(image.path)  # its descriptor belongs to the host's mount namespace
    restrict(tree, IMAGE_ATTRIBUTES)
    attach(tree, target)
    os.close(tree)
