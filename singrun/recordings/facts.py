"""What a launch of the plain kind rests on, gathered before it changes anything.

Whatever enter() looks at on the host has a fact here; tests/host/runtime/test_recordings.py holds
the list against what the kernel saw the runtime ask for.
"""

import os
import sys
import time

from singrun import config
from singrun.environment import assignments
from singrun.images import fuse, image, unpacked
from singrun.mounts.rows import Bind
from singrun.namespaces import job_step, meeting_places
from singrun.recordings import form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.config import Site
    from singrun.identity import Caller
    from singrun.images.image import Image
    from singrun.mounts.launch_table import Table

    Facts = list[form.Record]

_USERS, _GROUPS, _SWITCH = "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"
_NAME_CACHE = "/var/run/nscd/socket"  # nscd(8) answers in place of these files
_VALUES = ("HOME", "PWD", "USER", "SHELL", "TMPDIR", "XAUTHORITY", "SUDO_UID")
_SESSIONS = ("TMPDIR", "PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR", "XAUTHORITY", "PWD")
# Those of option_variables and of variables.PREFIXES, but for what config.read() looks at.
_OWN = ("SINGRUN_CONFIG", "SINGRUN_CACHEDIR", "SINGRUN_CACHESIZE")
_FAMILIES = ("SINGRUN", "APPTAINER", "SINGULARITY")
# The shell gives them a value or a meaning: assignments.without_shell() leaves these to it.
_SHELLS = sorted(map(os.fsdecode, assignments._SHELLS - {b"PWD", b"OLDPWD", b"_"}))


def _beginning() -> float:
    """Return when this process began, in seconds of the epoch. proc(5), stat: field 22."""
    fields = str(sys._xoptions.get("stat", "")).split()
    if len(fields) <= 22 - 3:
        return 0.0  # nothing is certain
    since_boot = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


_BEGAN, _TICK = _beginning(), 0.05  # seconds; files' times are of the kernel's tick


class UncertainError(Exception):
    """Something that the launch rests on cannot be checked cheaply and exactly."""


def host(
    words: "list[str]", site: "Site", caller: "Caller", table: "Table", *, joins: bool = False
) -> "Facts":
    """Return the facts of the caller and the host. Raises UncertainError, OSError.

    words: of the command line, those before the program. joins: it is one of several ranks.
    """
    absent = (*_SHELLS, *([] if joins else job_step._RANKS))
    family = [name for name in os.environ if name.startswith(_FAMILIES)]
    if not set(_OWN).issuperset(family) or any(name in os.environ for name in absent):
        raise UncertainError("a variable means something")
    facts: Facts = [("k", word) for word in words]
    counts = [sum(name.startswith(each) for name in family) for each in _FAMILIES]
    facts += [("p", *pair) for pair in zip(_FAMILIES, counts)]
    facts += [variable(name) for name in dict.fromkeys((*_VALUES, *_SESSIONS, *_OWN))]
    facts += [("n", name) for name in absent]
    facts += [("i", caller.uid, caller.gid)]
    facts += [("g", "".join(f"{group} " for group in os.getgroups()))]
    facts += [("c", os.getcwd()), ("b", unpacked.boot_id())]
    settings = filter(None, (os.environ.get("SINGRUN_CONFIG"), config.PATH, *config.THEIRS))
    facts += [_whole(path) for path in settings]
    if site.path and ("s", "f", site.path, "-") in facts:
        raise UncertainError("the site's file has just gone")
    facts += [_absent(image.POLICY), *_names(caller)]
    facts += [_present(path) for path in _modules()]
    places = ["/", "/dev", "/proc", "/sys", "/tmp", "/var/tmp", "."]  # noqa: S108  the very ones
    places += [word.split(":")[0] for word in site.binds]
    places += [row.source for row in table.rows if isinstance(row, Bind)]
    places += [path for path in map(os.environ.get, _SESSIONS) if path and os.path.isabs(path)]
    places += [caller.home] if caller.home else []
    return facts + [_file(path) for path in dict.fromkeys(places)]


def of_image(image_: "Image", path: str) -> "Facts":
    """Return the facts of the image. path: as the caller names it."""
    status = os.fstat(image_.fd)
    word = meeting_places.of_image(status)
    absent = [_absent(f"{place}/{word}") for place in _meeting_places()]
    return [("o", path, settled(status)), *absent]


def of_cache(cache: str, place: str) -> "Facts":
    """Return the facts of the image's ``place`` in the cache. Raises OSError, RunError."""
    cached, files = os.lstat(place), os.lstat(f"{place}/tree")
    for each in (cache, place):
        os.close(unpacked.open_private(each))
    rows: Facts = [("d", place, form.identity(cached, whole=False)), ("r", "tree", settled(files))]
    return [_file(cache, links=False), *rows, ("x",)]


def fuse_program(name: str) -> str:
    """Return the FUSE program that a strategy takes."""
    paths = filter(lambda path: os.access(path, os.X_OK), fuse.program_paths(name))
    return next(paths, "")


def of_fuse(name: str, program: str, place: str) -> "Facts":
    """Return the facts of a strategy's FUSE program: it is there, and none before it.

    place: in the cache, from which the image's tree would be taken, if there was one; "": it would
    not. What the image's files are is told by its own file.
    """
    paths = fuse.program_paths(name)
    others = paths[: paths.index(program)] + [place] * bool(place) if program else paths
    if not program or any(map(os.path.lexists, others)):
        raise UncertainError("something else may come to be taken")
    return [*map(_absent, others), variable("PATH"), _present(program), _file("/dev/fuse")]


def settled(status: os.stat_result) -> str:
    """Return the identity of a file that is as it was when this process began.

    Else what was read of it may be older than what is noted. Raises UncertainError.
    """
    if status.st_ctime > _BEGAN - _TICK:
        raise UncertainError("a file has just been changed")
    return form.identity(status, whole=True)


def _meeting_places() -> "list[str]":
    boot = unpacked.boot_id()
    own = meeting_places._PLACES
    return [place if place.startswith("/run/") else f"{place}/{boot}" for place in own]


def _modules() -> "list[str]":
    """Return the files of the runtime's modules: another version may decide otherwise."""
    modules = [module for name, module in sys.modules.items() if name.startswith("singrun")]
    paths = [getattr(module, "__file__", None) or module.__spec__.origin for module in modules]  # type: ignore[union-attr]
    return [path for path in (*paths, sys.argv[0]) if path]


def variable(name: str) -> "form.Record":
    """Return the fact that a variable is as it is now."""
    return ("e", name, os.environ[name]) if name in os.environ else ("n", name)


def _file(path: str, *, links: bool = True, whole: bool = False) -> "form.Record":
    try:
        status = os.stat(path, follow_symlinks=links)
    except (FileNotFoundError, NotADirectoryError):
        return ("s", "f" if links else "l", path, "-")
    text = settled(status) if whole else form.identity(status, whole=False)
    return ("s", "f" if links else "l", path, text)


def _whole(path: str) -> "form.Record":
    return _file(path, whole=True)


def _present(path: str) -> "form.Record":
    """Return the fact that a file is there as it was; OSError if it has just gone."""
    return ("s", "f", path, settled(os.stat(path)))


def _absent(path: str) -> "form.Record":
    """Return the fact that there is no file, which has been looked for already."""
    return ("s", "l", path, "-")


def _names(caller: "Caller") -> "Facts":
    """Return what the caller's names rest on, if these are two files of the host."""
    sources = [_first_source(name) for name in ("passwd", "group")]
    has_group = _numbers(_GROUPS).issuperset(caller.groups)
    if sources != ["files", "files"] or caller.uid not in _numbers(_USERS) or not has_group:
        raise UncertainError("a name service may be asked")
    if os.path.lexists(_NAME_CACHE):
        raise UncertainError("nscd answers")
    return [*map(_present, (_USERS, _GROUPS, _SWITCH)), _absent(_NAME_CACHE)]


def _first_source(database: str) -> str:
    """Return who is asked first, and alone if it knows the answer. nsswitch.conf(5)."""
    with open(_SWITCH, errors="surrogateescape") as file:
        for line in file:
            name, _, sources = line.partition("#")[0].partition(":")
            if name.strip() == database and "[" not in sources:
                return (sources.split() or [""])[0]
    return ""


def _numbers(path: str) -> "set[int]":
    """Return the ids in a file of passwd(5) or group(5)."""
    with open(path, errors="surrogateescape") as file:
        words = [line.split(":") for line in file]
    return {int(fields[2]) for fields in words if len(fields) > 2 and fields[2].isdecimal()}
