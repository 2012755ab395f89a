"""Directories in which a user's launches meet on this host; no other user can enter them."""

import os
import stat

from singrun.errors import RunError
from singrun.images import unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_UID = os.geteuid()  # the host's; in a user namespace of ours it would be 0
# A login's /run/user/UID goes with the last session, and programs that were started may not.
_PLACES = ["/run/singrun"] if _UID == 0 else []
_PLACES += [f"/tmp/singrun-{_UID}", f"/run/user/{_UID}/singrun"]  # noqa: S108  checked before use
if _UID and os.path.isabs(os.environ.get("HOME", "")):  # where no other user can squat
    _PLACES.append(f"{os.environ['HOME']}/.singrun")


def of_image(status: os.stat_result) -> str:
    """Return the name under which instances of an image's file or directory listen."""
    return f"image-{status.st_dev:x}-{status.st_ino:x}"


def may_have_instance(path: str) -> bool:
    """Whether an instance of the image at ``path`` was started here, and may live."""
    try:
        name = of_image(os.stat(path))
    except OSError:
        return False
    return any(_have_and_close(directory, name) for directory in opened())


def _have_and_close(directory: int, name: str) -> bool:
    try:
        return os.access(name, os.F_OK, dir_fd=directory)
    finally:
        os.close(directory)


def opened() -> "Iterator[int]":
    """Yield a descriptor (O_PATH) of each that only this user may enter."""
    for place in _PLACES:
        directory = _open(place)
        if directory >= 0:
            yield directory


def make_first() -> int:
    """Open (O_PATH) the first that only this user may enter; it is made if need be."""
    for place in _PLACES:
        directory = _open(place, make=True)
        if directory >= 0:
            return directory
    why = f"None of {', '.join(_PLACES)} is a directory of yours that is closed to others."
    remedy = "Ask the administrator to remove what another user has put there."
    raise RunError("Cannot meet other launches on this host", why=why, remedy=remedy)


def _open(place: str, *, make: bool = False) -> int:
    """Open (O_PATH) a directory that only this user may enter; -1 for any other."""
    try:
        if make:
            _make(place)
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return -1
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        return -1
    return fd if place.startswith("/run/") else _of_this_host(fd, make=make)


def _of_this_host(place: int, *, make: bool) -> int:
    """Open (O_PATH) this host's own directory below ``place``, which hosts may share by NFS.

    A socket of another host refuses connections like a dead process's. The directory's name is
    the kernel's boot id: random(4).
    """
    try:
        name = unpacked.boot_id()
        if make:
            _make(name, place)
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
    except OSError:
        return -1
    finally:
        os.close(place)


def _make(name: str, directory: "int | None" = None) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return
