"""Images that are not files: docker://NAME and its kin, which singbuild turns into files once.

An image that a library of the site has is taken from there. Else the file is kept in the caller's
cache, in a directory named by the words that asked for it, so that the second start finds it by
one look. An archive or layout that has changed since is another image.
"""

import os
import sys

from singrun.errors import RunError, UsageError
from singrun.images import library
from singrun.images.pull_cache import cache
from singrun.images.unpacked import open_private

PATHS = ("docker-archive", "oci", "oci-archive")
SCHEMES = ("docker", "docker-daemon", "https", "library", "oras", "shub", *PATHS)


def is_source(word: str) -> bool:
    """Tell whether a word names an image by its origin, and no file has that name."""
    scheme, colon, _ = word.partition(":")
    return bool(colon) and scheme in SCHEMES and not os.path.exists(word)


def fetched(word: str, *, anew: bool, plain: bool) -> str:
    """Return the path of the image's file, built now if it is not there.

    anew: in any case; plain: by http, if its registry speaks no https.
    RunError says why it cannot be had; what singbuild says of it goes to standard error.
    """
    scheme, _, name = word.partition(":")
    name = name.removeprefix("//")
    if not name:
        raise UsageError(f"{word} names no image", remedy="Say: docker://ubuntu:latest")
    identity = name
    if scheme in PATHS:
        identity = f"{os.path.abspath(name)}@{_stamp(name)}"
    elif not anew and (shared := library.find_source(scheme, name)):
        return shared
    place = cache()
    _check_private(place)
    directory, _, file = library.place(scheme, identity).partition("/")
    if scheme in PATHS:
        file = os.path.basename(name.rstrip("/")) or "image"
    path = f"{place}/pulled/{directory}/{file}"
    if anew or not os.path.exists(path):
        _build(f"{scheme}:{name}", path, ["--force"] * anew + ["--insecure"] * plain)
    elif os.access(os.path.dirname(path), os.W_OK):
        os.utime(os.path.dirname(path))  # the time of its last use
    return path


def _stamp(name: str) -> str:
    """Return what changes when an archive or a layout does. name: PATH or PATH:TAG."""
    path = name if os.path.exists(name) else name.rpartition(":")[0]
    try:
        status = os.stat(f"{path}/index.json" if os.path.isdir(path) else path)
    except OSError as error:
        why = f"{error.strerror}."
        raise RunError(f"Cannot open {name}", why=why, remedy="Check the spelling.") from None
    return f"{status.st_mtime_ns}-{status.st_size}"


def _check_private(cache: str) -> None:
    """Refuse a cache that another user has filled."""
    try:
        os.close(open_private(cache))
    except FileNotFoundError:
        return  # singbuild makes it
    except RunError as error:
        error.remedy = "Name a directory of your own: SINGBUILD_CACHEDIR=/some/directory"
        raise


def _build(source: str, path: str, options: "list[str]") -> None:
    program = builder()
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
    words = [program, "pull", "--once", *options, source, path]
    child = os.posix_spawn(program, words, os.environ, file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(null)
    if status:
        why = f"singbuild ended with status {status}; what it said stands above."
        raise RunError(f"Cannot get {source}", why=why)


def builder(why: str = "It turns images of registries into files.") -> str:
    """Return the path of the singbuild beside this singrun, or on the PATH. why: who needs it."""
    beside = sys._xoptions.get("here", "")
    directories = [str(beside), *os.environ.get("PATH", os.defpath).split(":")]
    for path in (f"{directory}/singbuild" for directory in directories if directory):
        if path[0] == "/" and os.access(path, os.X_OK):
            return path
    why = f"{why} It is neither beside singrun nor on the PATH."
    raise RunError("singbuild is not installed", why=why, remedy="Install it, or bring a file.")
