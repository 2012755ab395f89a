"""``mount``: an image seen at a directory of the host, by one shell or command and nobody else.

The mount stands in the namespaces of that command. When it ends, the mount is gone.
"""

import os
import stat

from singrun import assembly, config, syscalls
from singrun.environment import inherited
from singrun.errors import RunError, say
from singrun.identity import Caller
from singrun.images import strategies
from singrun.images.image import SANDBOX
from singrun.mounts.rows import attach
from singrun.namespaces import leaving
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def show(request: Request) -> "NoReturn":
    """Mount the image at the first argument and execute the rest, or a shell; else RunError."""
    directory, *command = request.program.arguments
    site = config.read()
    config.check_allowed(site, request.isolation)
    image = strategies.opened(request.image)
    if image.kind == SANDBOX:
        raise RunError(f"{request.image.path} is a directory already", remedy="Go there with cd.")
    caller = Caller()
    place = _directory(directory)
    here = os.getcwd()
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    privileged = leaving.leave_host(caller, proc, slave=site.on["mount slave"])
    tmpfs, mounting = assembly.mount_image(image, request, site, privileged=privileged)
    tree = mounting.finish()
    leaving.unshare_for(request.isolation, daemon=mounting.daemon_fd >= 0)
    attach(tree, place)
    os.close(tree)
    syscalls.umount2(tmpfs, syscalls.MNT_DETACH)
    os.chdir(here)  # it may be the very directory, or below it
    leaving.become(caller, proc, privileged=privileged)
    inherited.restore_signals(inherited.SIGPIPE, inherited.SIGXFSZ)
    _become(command or [os.environ.get("SHELL") or "/bin/sh"], place, image.path)


def _directory(path: str) -> str:
    """Return the path of an existing directory, links resolved."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        remedy = f"Make it first: mkdir {path}"
        raise RunError(f"Cannot mount at {path}", why=f"{error.strerror}.", remedy=remedy) from None
    if not is_directory:
        raise RunError(f"Cannot mount at {path}", why="It is no directory.")
    return os.path.realpath(path)


def _become(command: list[str], place: str, image: str) -> "NoReturn":
    if os.isatty(0):
        say(f"{image} is mounted at {place} for what runs here; leave with: exit", "INFO")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise RunError(f"Cannot execute {command[0]}", why=f"{error.strerror}.") from None
