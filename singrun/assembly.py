"""The root that the program will see: the image, layers over it, and files made for this launch."""

import errno
import os
import stat

from singrun import syscalls
from singrun.config import Site
from singrun.errors import RunError, say
from singrun.identity import Caller
from singrun.images import strategies
from singrun.images.image import Image
from singrun.mounts.root import NoPlaceError, Root
from singrun.mounts.rows import Bind, Mount, attach
from singrun.request import ImageOptions, MountOptions, Program, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.images.overlay import Layers, Overlay


def make_tmpfs() -> str:
    """Return a private tmpfs with a directory ``image``, where the root is put together.

    It hangs on /proc/PID/task. When this process is killed, the kernel takes that directory
    away, and everything mounted on it in any namespace (d_invalidate, Linux 3.18): no moment
    is left in which a kill leaves a FUSE daemon behind, sitting in a namespace that holds its
    mount.
    """
    tmpfs = f"/proc/{os.readlink('/proc/self')}/task"
    syscalls.mount("tmpfs", tmpfs, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
    os.mkdir(f"{tmpfs}/image")
    return tmpfs


def mount_image(
    image: Image, request: Request, site: Site, *, privileged: bool
) -> "tuple[str, strategies.Mounting]":
    """Make a private tmpfs and begin to mount the image by way of it; return both."""
    tmpfs = make_tmpfs()
    mounting = strategies.start(
        image,
        f"{tmpfs}/image",
        privileged=privileged,
        forced=request.image.mount_with,
        site=site,
        debug=request.debug,
    )
    return tmpfs, mounting


def layers(options: ImageOptions, site: Site) -> "Layers | None":
    """Open and check what is to be laid over the image; None if nothing is."""
    if not options.overlays and not options.writable_tmpfs:
        return None
    from singrun.images.overlay import Layers  # few ask

    return Layers(options, site)


def assemble(
    tmpfs: str, image: Image, tree: int, overlay: "Overlay | None", *, privileged: bool
) -> Root:
    """Attach the image's detached tree, and let the kernel lay the layers over it if need be."""
    path = f"{tmpfs}/image"
    attach(tree, path)
    os.close(tree)
    if overlay and not overlay.is_laid:
        path = overlay.lay_over(path, tmpfs, privileged=privileged)
    root = Root(path, image_is_written=image.writable)
    if image.writable or (overlay and overlay.writable):
        root.adopt(root.fd, "/", lasting=image.writable or bool(overlay and overlay.lasting))
    return root


def check_programs(root: Root, image: str, program: Program) -> None:
    """Refuse an image without /bin/sh but for exec, and one without the shell of --shell."""
    shell = program.shell
    try:
        os.close(root.open("/bin/sh", os.O_PATH))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise  # no fault of the image
        if error.errno == errno.ENOENT and program.verb == "exec":
            return
        why = f"All but exec starts with it; looking for it in {image}: {error.strerror}."
        remedy = "Build the image again with a shell in it."
        if error.errno != errno.ENOENT:
            remedy = f"Check it with: e2fsck -fn {image}"
        raise RunError("Container does not have a valid /bin/sh", why=why, remedy=remedy) from None
    if shell and not (shell.startswith("/") and root.has(shell)):
        why, remedy = "It must be the path of a program in the image.", "Leave --shell out."
        raise RunError(f"There is no shell {shell} in {image}", why=why, remedy=remedy)


def identity(
    tmpfs: str, root: Root, caller: Caller, options: MountOptions, site: Site
) -> list[Mount]:
    """Return mounts of the image's passwd and group with the caller's lines before them."""
    table: list[Mount] = []
    home = options.home[1] if options.home else caller.home_inside
    for name, lines in (("passwd", caller.passwd_line(home)), ("group", caller.group_lines())):
        path = f"/etc/{name}"
        if not site.on[f"config {name}"] or path in options.no_mount:
            continue
        if caller.uid == 0 and root.is_written(path):
            continue  # root adds users to an image that he writes
        own = f"{tmpfs}/{name}"
        fd = os.open(own, os.O_WRONLY | os.O_CREAT, 0o644)  # calls that recordings/ can note
        # Before the image's own: of several lines with a name or an id, getpwnam(3)
        # finds the first.
        os.write(fd, lines + root.read(path))
        os.close(fd)
        table.append(Bind(own, path, why="the same user inside"))
    return table


def resolver(tmpfs: str, servers: list[str]) -> list[Mount]:
    """Return a mount of a resolv.conf(5) with the ``servers`` of --dns."""
    with open(f"{tmpfs}/resolv.conf", "w") as file:
        file.write("".join(f"nameserver {each}\n" for each in servers))
    return [Bind(file.name, "/etc/resolv.conf", why="--dns")]


def put(root: Root, row: Mount, *, debug: bool) -> None:
    """Do a row of the table; warn of one for which an image that is written has no place."""
    if debug:
        say(row.describe(), "DEBUG")
    try:
        row.execute(root)
    except NoPlaceError as error:
        say(f"Not mounted: {row.what()}\n  {error.what}: {error.why}")


def place_marker(root: Root, rows: list[Mount], place: str) -> None:
    """Put the directory ``place`` among the mounts, where it is not seen: below one of the rows.

    proc(5), mountinfo: a covered mount is listed like any other.
    """
    for row in rows:
        is_directory = row.tree >= 0 and stat.S_ISDIR(os.fstat(row.tree).st_mode)
        if is_directory and root.shows(row.target, row.tree):
            cover = Bind(f"/proc/self/fd/{row.tree}", row.target).pin()
            Bind(place, row.target).execute(root)
            cover.execute(root)
            return
