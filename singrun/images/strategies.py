"""How an image becomes a directory: loop, FUSE, unpacked, or a bind of what is one already."""

import errno
import os

from singrun import syscalls
from singrun.config import Site
from singrun.errors import RunError, UnavailableError, say
from singrun.images import unpacked
from singrun.images.image import SANDBOX, SQUASHFS, Image, open_image
from singrun.mounts import loop
from singrun.mounts.rows import clone, image_attributes, restrict
from singrun.request import FUSE2FS, LOOP, SQUASHFUSE, UNPACK, ImageOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.images import fuse

BIND = "bind"
NAMES = [LOOP, FUSE2FS, SQUASHFUSE, UNPACK]
_ROOT_ON_USERS = "allow root user images"
_NO_DEVICE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV)


def opened(options: ImageOptions) -> Image:
    """Return the image of a launch, opened; to be written, and compared with its record, if asked.

    Raises RunError.
    """
    image = open_image(options.path, writable=options.writable)
    if options.contents:
        from singrun.images import contents  # it reads all of it: seconds

        contents.check(image)
    return image


class Mounted:
    """An image that is mounted already, as a detached tree. daemon_fd: see fuse.Mounting."""

    daemon_fd = -1

    def __init__(self, tree: int) -> None:
        self._tree = tree

    def finish(self) -> int:
        """Return the tree."""
        return self._tree


class Mounting:
    """An image on its way to be a detached tree, by the first strategy that this host has."""

    def __init__(self, image: Image, target: str, names: list[str], site: Site) -> None:
        self._image, self._target, self._names, self._site = image, target, list(names), site
        self._refusals: list[tuple[str, RunError]] = []
        self.debug = False
        self._mount: fuse.Mounting | Mounted

    @property
    def daemon_fd(self) -> int:
        """Return the descriptor that reads end of file when a FUSE daemon has ended, or -1."""
        return self._mount.daemon_fd

    @property
    def have_daemon(self) -> bool:
        """Whether a FUSE daemon has been started."""
        return self.daemon_fd >= 0

    @property
    def writable_images(self) -> "list[tuple[Image, int]]":
        """Return the image, with ``daemon_fd``, if a FUSE daemon writes it."""
        is_written = self._image.writable and self.have_daemon
        return [(self._image, self.daemon_fd)] if is_written else []

    def start(self) -> None:
        """Begin with the next of the strategies. RunError: there is none left."""
        while self._names:
            name = self._names.pop(0)
            if self.debug:
                say(f"{name} mounts {self._image.path}, offset {self._image.offset}", "DEBUG")
            try:
                self._name, self._mount = name, _begin(name, self._image, self._target, self._site)
                return
            except RunError as error:
                if not (self._refusals or isinstance(error, UnavailableError)):
                    raise
                self._note_refusal(name, error)
        raise _none_left(self._image, self._refusals)

    def finish(self) -> int:
        """Return the tree. The caller has to leave this mount namespace."""
        while True:
            try:
                return self._mount.finish()
            except UnavailableError as error:
                self._note_refusal(self._name, error)
                self.start()

    def _note_refusal(self, name: str, error: RunError) -> None:
        self._refusals.append((name, error))
        if self.debug:
            say(str(error), "DEBUG")


def start(
    image: Image, target: str, *, privileged: bool, forced: str, site: Site, debug: bool
) -> Mounting:
    """Begin to mount ``image``, by way of the directory ``target`` where one is needed.

    privileged: whether we hold the host's privilege. forced: a name of NAMES, or "".
    """
    if privileged:
        _check_owner(image, site)
    if image.dirty and not image.writable:
        say(f"{image.path} was not unmounted cleanly; reading it without its journal.")
        say(image.remedy.replace("Check", "Repair").replace("-fn", "-f"))
    names = candidates(image, privileged=privileged, forced=forced, site=site)
    mounting = Mounting(image, target, names, site)
    mounting.debug = debug
    mounting.start()
    return mounting


class DetachedTrees:
    """Several images, mounted as detached trees by way of the new directories PREFIX0 and so on.

    writable_images: those that a FUSE daemon writes, each with its Mounting.daemon_fd.
    """

    def __init__(self, images: list[Image], prefix: str, *, privileged: bool, site: Site) -> None:
        self.trees: list[int] = []
        self.writable_images: list[tuple[Image, int]] = []
        self.have_daemon = False
        for number, image in enumerate(images):
            target = f"{prefix}{number}"
            os.mkdir(target)
            mounting = start(
                image, target, privileged=privileged, forced="", site=site, debug=False
            )
            self.trees.append(mounting.finish())
            self.have_daemon |= mounting.have_daemon
            self.writable_images += mounting.writable_images


def _check_owner(image: Image, site: Site) -> None:
    """Warn root of an image that is not root's, or refuse it, as the site says."""
    status = os.fstat(image.fd)
    if not status.st_nlink or (status.st_uid == 0 and not status.st_mode & 0o022):
        return  # a file without a name is the doctor's own
    why = "The kernel would read it, and its programs run as root."
    if site.on[_ROOT_ON_USERS]:
        say(f"{image.path} can be changed by others than root. {why.replace('would', 'will')}")
        return
    remedy = "Run it as its owner, or make it root's own: copy it, and look what is in it."
    what = f"{site.path} says: {_ROOT_ON_USERS} = no; others than root can change {image.path}"
    raise RunError(what, why=why, remedy=remedy)


def candidates(image: Image, *, privileged: bool, forced: str, site: Site) -> list[str]:
    """Return the names of the strategies to try, in this order."""
    if image.kind == SANDBOX:
        return [BIND]
    fuse_name = _fuse_program(image)
    if forced:
        _check_forced(forced, image, privileged=privileged)
        return [forced]
    if image.writable:
        return [LOOP, fuse_name] if privileged else [fuse_name]
    if privileged:
        return [LOOP, fuse_name, UNPACK]
    # The kernel reads 6,700 small files of an unpacked tree in 0.28 s, fuse2fs in 1.5 s; but to
    # unpack an image takes seconds, so a tree is used first only if it is there.
    return [UNPACK, fuse_name] if _is_unpacked(image, site) else [fuse_name, UNPACK]


def _fuse_program(image: Image) -> str:
    return SQUASHFUSE if image.kind == SQUASHFS else FUSE2FS


def to_read(image: Image, options: ImageOptions, site: Site) -> str:
    """Return how an ordinary user's launch mounts a file to read it; "" for others.

    UNPACK: its tree is in the cache already.
    """
    if options.writable or image.kind == SANDBOX:
        return ""
    if options.mount_with in ("", UNPACK) and _is_unpacked(image, site):
        return UNPACK
    name = _fuse_program(image)
    return name if options.mount_with in ("", name) else ""


def _is_unpacked(image: Image, site: Site) -> bool:
    """Whether the image's tree is in the cache, and can be used where that lies."""
    place = f"{site.cache}/{image.stamp}"
    return os.path.isdir(place) and not unpacked.is_noexec(place)


def _begin(name: str, image: Image, target: str, site: Site) -> "fuse.Mounting | Mounted":
    if name == BIND:
        unpacked.check_executable(image.path, "Copy the directory to another file system.")
        return Mounted(_restrict(_clone_directory(image), image))
    if name == LOOP:
        return Mounted(_mount_loop(image))
    if name == UNPACK:
        return Mounted(_restrict(_tree_in_cache(image, site), image))
    from singrun.images import fuse  # the kernel mounts the others' images

    return fuse.start(name, image, target)


def _clone_directory(image: Image) -> int:
    """Return a copy of the mount at the image's path, if that is still what was opened."""
    tree = clone(image.path)
    if not os.path.samestat(os.fstat(tree), os.fstat(image.fd)):
        what = f"The image {image.path} was replaced"
        raise RunError(what, why="Another process does that.", remedy="Start it again.")
    return tree


def _restrict(tree: int, image: Image) -> int:
    restrict(tree, image_attributes(writable=image.writable))
    return tree


def _check_forced(name: str, image: Image, *, privileged: bool) -> None:
    why = ""
    if name == LOOP and not privileged:
        why = "Only root may use loop devices."
    elif name in (FUSE2FS, SQUASHFUSE) and name != _fuse_program(image):
        why = f"It holds {image.kind}, which {_fuse_program(image)} mounts."
    elif name == UNPACK and image.writable:
        why = "What is written into an unpacked copy does not reach the image."
    if why:
        remedy = "Leave --mount-with out."
        raise RunError(f"Cannot mount {image.path} with {name}", why=why, remedy=remedy)


def _none_left(image: Image, refusals: list[tuple[str, RunError]]) -> RunError:
    """Say in one error why none of the strategies can be had on this host."""
    if image.writable and isinstance(refusals[-1][1], UnavailableError):
        error = refusals[-1][1]
        beside = "To write beside the image: --overlay DIRECTORY. To memory: --writable-tmpfs."
        error.remedy = f"{error.remedy}\n  {beside}".lstrip()
    if len(refusals) == 1:
        return refusals[0][1]
    why = " ".join(f"{name}: {error.what.rstrip('.')}. {error.why}" for name, error in refusals)
    remedies = dict.fromkeys(error.remedy for _, error in refusals if error.remedy)
    what, remedy = f"Cannot mount the {image.kind} image {image.path}", " Or: ".join(remedies)
    return RunError(what, why=why.strip(), remedy=remedy)


def _tree_in_cache(image: Image, site: Site) -> int:
    """Return the image's tree in the cache, which is filled if need be."""
    place = unpacked.lookup(image, site)
    if place >= 0:
        unpacked.check_executable(site.cache, unpacked.ELSEWHERE)
    else:
        from singrun.images import unpacking  # takes seconds anyway

        place = unpacking.fill(image, site)
    return clone(f"/proc/self/fd/{place}/tree")  # place keeps its lock until the program starts


def _mount_loop(image: Image) -> int:
    """Return a tree that the kernel mounts by a loop device.

    The superblock may ask for a panic on errors: errors= overrides that.
    """
    try:
        device, fd = loop.attach(image.fd, image.offset, read_only=not image.writable)
    except OSError as error:
        raise _no_loop(error) from None
    options: dict[str, str | None] = {} if image.writable else {"ro": None}
    if image.kind == "ext3":
        options["errors"] = "remount-ro"
    if image.dirty and not image.writable:
        # No journal is replayed on a read-only device: without this it is refused, "try mounting
        # with noload" (Linux, fs/ext4/super.c).
        options["noload"] = None
    try:
        return _loop_tree(image, device, options)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise  # no fault of the image
        raise _mount_error(image, error) from None
    finally:
        os.close(fd)


def _mount_error(image: Image, error: OSError) -> RunError:
    what, why = f"Cannot mount {image.path}", f"The kernel says: {error.strerror}."
    if error.errno in (errno.EPERM, errno.EACCES):  # root of a container that may not mount disks
        return UnavailableError(what, why=why, remedy="Use --mount-with fuse2fs.")
    if error.errno == errno.ENODEV:
        remedy = f"Load the kernel module {image.kind}, or use --mount-with unpack."
        return UnavailableError(what, why=f"The kernel has no {image.kind}.", remedy=remedy)
    return RunError(what, why=why, remedy=image.remedy)


def _loop_tree(image: Image, device: str, options: "dict[str, str | None]") -> int:
    context = syscalls.fsopen(image.kind)
    try:
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "source", device)
        for key, value in options.items():
            kind = syscalls.FSCONFIG_SET_FLAG if value is None else syscalls.FSCONFIG_SET_STRING
            syscalls.fsconfig(context, kind, key, value)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None)
        return syscalls.fsmount(context, image_attributes(writable=image.writable))
    finally:
        os.close(context)


def _no_loop(error: OSError) -> UnavailableError:
    remedy = "Free loop devices, or use --mount-with fuse2fs."
    if error.errno in _NO_DEVICE:
        remedy = "Give this host loop devices (modprobe loop), or use --mount-with fuse2fs."
    return UnavailableError("Cannot get a loop device", why=f"{error.strerror}.", remedy=remedy)
