"""Image libraries: directories of a site, searched before anything is fetched, and never written.

    LIBRARY/NAME, NAME.img, NAME.sif …    what ``singrun exec NAME`` means
    LIBRARY/SCHEME:NAME/FILE              what ``singrun exec SCHEME:NAME`` means: see ``place``

``singbuild cache fill`` makes the latter, and links from the former to them.
"""

import os
import stat

from singrun import config
from singrun.errors import RunError, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VARIABLE = "SINGRUN_LIBRARY"
_ENDINGS = ("", ".img", ".sif", ".sqsh", ".sqfs", ".squashfs", ".simg")
_LONGEST = 255  # NAME_MAX


def place(scheme: str, name: str) -> str:
    """Return where an image lies below a library or a cache, by the words that name it.

    Raises RunError for a name that no directory can have.
    """
    key = f"{scheme}:{name}".replace("%", "%25").replace("/", "%2F")
    if len(os.fsencode(key)) > _LONGEST:
        raise RunError(f"The name {name} is too long", remedy="Build a file: singbuild pull")
    return f"{key}/{os.path.basename(name.rstrip('/')) or 'image'}"


def find(name: str, *, enforce: bool = True) -> str:
    """Return the path of a named image, "" if no library has it. enforce: see directories()."""
    parts = name.split("/")
    if name.startswith("/") or not name or ".." in parts or "." in parts:
        return ""
    return _first([name + ending for ending in _ENDINGS], directories(enforce=enforce))


def find_source(scheme: str, name: str) -> str:
    """Return the path of the image that comes from SCHEME:NAME, "" if no library has it."""
    return _first([place(scheme, name)], directories())


def directories(*, enforce: bool = True) -> "Iterator[str]":
    """Yield the libraries, in the order in which they are searched: the caller's, the site's.

    enforce: by the caller's variables; else the site's file alone names them. A directory that
    everybody may write to is left out.
    """
    variables = os.environ if enforce else {}
    words = variables.get(VARIABLE, "").split(":")
    site = config.read(enforce=enforce).word["image library"].split(":")
    paths = (*words, *(config.expanded(each, variables) for each in site))
    yield from (path for path in paths if path and _is_trusted(path))


def _first(names: "list[str]", places: "Iterable[str]") -> str:
    for directory in places:
        for name in names:
            path = f"{directory}/{name}"
            if os.path.isfile(path) or (os.path.isdir(path) and os.path.exists(f"{path}/bin")):
                return path
    return ""


def _is_trusted(directory: str) -> bool:
    """Whether a library is there, and not everybody may put images into it."""
    try:
        mode = os.stat(directory).st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode) and mode & 0o002:
        say(f"The image library {directory} is left out: everybody may write to it")
        return False
    return stat.S_ISDIR(mode)
