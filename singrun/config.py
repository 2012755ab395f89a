"""The site's file: one directive a line, ``name = value``, as in Singularity 2.x.

The builder's configuration files have the same form: ``entries`` reads both. Nothing here is a
limit: singrun has no privilege, so whoever may read it may copy and change it. docs/runtime.md
says which directive does what.
"""

import os

from singrun.errors import RunError, nearest, say
from singrun.request import HardwareOptions, IsolationOptions, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = "/etc/singrun.conf"
# A site that had one of these keeps it: read where ours is absent. Of its directives, those that
# have no counterpart here are told by singrun doctor and not at each launch.
THEIRS = ("/etc/apptainer/apptainer.conf", "/etc/singularity/singularity.conf")
_SWITCHES = {
    "allow pid ns": True,
    "allow ipc ns": True,
    "allow user ns": True,
    "allow root user images": True,
    "always use nv": False,
    "always use rocm": False,
    "user bind control": True,
    "enable overlay": True,
    "config passwd": True,
    "config group": True,
    "config resolv_conf": True,
    "mount proc": True,
    "mount sys": True,
    "mount home": True,
    "mount tmp": True,
    "mount hostfs": False,
    "mount slave": True,
    "record launches": True,
}
_WORDS = {
    "mount dev": "yes",
    "cache directory": "",
    "cache size": "20G",
    "image library": "",
    "linker cache": "/etc/ld.so.cache",
    "log launches": "no",
}
# Read, and without effect: there is no setuid program and no session directory.
_IDLE = ("allow setuid", "container dir", "sessiondir prefix", "max loop devices")
# What --nv, --rocm and --fabric bring in, besides what driver_lists.py names.
_LISTS = [
    f"{k} {t}" for k in ("nv", "rocm", "fabric") for t in ("library", "program", "device", "file")
]
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LARGEST_SIZE, _DIGITS = 1 << 62, 20  # setrlimit(2) takes 63 bits, int() a few thousand digits
_YES, _NO = ("yes", "y", "1", "try"), ("no", "n", "0")
_BINDS = ["/etc/localtime", "/etc/hosts"]
_LARGEST = 1 << 20  # bytes of a file
_LOG = "/dev/log"  # syslog(3), if the site names no socket
_UNMAPPED = 65534  # root, in a user namespace that has no root of its own: user_namespaces(7)


class Site:
    """What the site wishes. ``on`` switches, ``word`` values, ``binds``: the words of bind path.

    path: of the file, "" if there is none. cache: the directory of unpacked images;
    cache_size: the bytes that it may take. places: by directive, the file and line that set it.
    lists: the values of repeatable directives, in order. idle: directives of Singularity's or
    Apptainer's that are not obeyed.
    """

    def __init__(self) -> None:
        self.on, self.word, self.binds = dict(_SWITCHES), dict(_WORDS), list(_BINDS)
        self.lists: dict[str, list[str]] = {}
        self.idle: list[str] = []
        self.places: dict[str, str] = {}
        self.path = self.cache = ""
        self.cache_size = 0


def read(*, enforce: bool = True) -> Site:
    """Return the defaults, changed by the site's file; enforce: and by the caller's variables."""
    site = Site()
    settings = os.environ if enforce else {}
    file = settings.get("SINGRUN_CONFIG", "")
    places = [file] if file else [PATH, *THEIRS]
    if not any(_read_file(site, path) for path in places) and file:
        why, remedy = "SINGRUN_CONFIG names it.", f"Unset it, and {PATH} is read."
        raise RunError(f"There is no file {file}", why=why, remedy=remedy)
    wish = settings.get("SINGRUN_CACHEDIR") or expanded(site.word["cache directory"], settings)
    size, where = settings.get("SINGRUN_CACHESIZE", ""), "SINGRUN_CACHESIZE"
    site.cache_size = size_of(size or site.word["cache size"], where if size else site.path)
    site.cache = wish or f"/var/tmp/singrun-{os.geteuid()}"  # noqa: S108  checked before use
    return site


def expanded(path: str, variables: "Mapping[str, str]") -> str:
    """Return a path with the caller's number for %U, and the values of $NAME and ${NAME}.

    "" where a variable is not set, as a scheduler's outside of a job.
    """
    start, *rest = path.replace("%U", str(os.geteuid())).split("$")
    for part in rest:
        name, _, more = part[1:].partition("}")
        if not part.startswith("{"):
            length = 0
            while part[length : length + 1].isalnum() or part[length : length + 1] == "_":
                length += 1
            name, more = part[:length], part[length:]
        if not variables.get(name):
            return ""
        start += variables[name] + more
    return start


def size_of(word: str, where: str) -> int:
    """Return a size in bytes: a number and K, M, G or T, as in 5G, 5 GB or 5GiB. RunError."""
    text = word.upper().replace(" ", "")
    number = text.rstrip("KMGTIB")
    unit = text[len(number) :].removesuffix("B").removesuffix("I")
    is_number = number.isascii() and number.isdecimal() and len(number) < _DIGITS
    if not is_number or unit not in _UNITS or (size := int(number) * _UNITS[unit]) >= _LARGEST_SIZE:
        what = f"{where}: cannot understand the cache size {word!r}"
        raise RunError(what, remedy="Say for instance 20G.")
    return size


def check_allowed(site: Site, isolation: IsolationOptions) -> None:
    """Refuse what the site's file says no to."""
    for directive, refused in (
        ("allow pid ns", isolation.pid),
        ("allow ipc ns", isolation.ipc),
        ("allow user ns", os.geteuid() != 0),
    ):
        if refused and not site.on[directive]:
            what, remedy = f"{site.path} says: {directive} = no", "Ask the administrator."
            raise RunError(what, remedy=remedy)


def apply(site: Site, request: Request) -> None:
    """Do what the site's file says of a launch: refuse, add drivers, log."""
    check_allowed(site, request.isolation)
    settle_drivers(site, request.hardware)
    place = log_of(site)
    if place and not request.plan:
        from singrun import launch_log

        words = [request.program.verb, *request.program.arguments[:1]]
        launch_log.send(place, os.path.realpath(request.image.path), words)


def log_of(site: Site) -> str:
    """Return the socket that gets a line of each launch; "" where the site asks for none."""
    place = site.word["log launches"]
    if place.startswith("/"):
        return place
    return "" if place.lower() in _NO else _LOG


def settle_drivers(site: Site, hardware: HardwareOptions) -> None:
    """Add the drivers that the site brings into each launch, unless --no-nv, --no-rocm is said."""
    for kind in ("nv", "rocm"):
        if getattr(hardware, f"no_{kind}"):
            setattr(hardware, kind, False)
        elif site.on[f"always use {kind}"] and not getattr(hardware, kind):
            setattr(hardware, kind, True)
            hardware.by_site.append(kind)


def entries(path: str) -> "list[tuple[int, str, str | None]] | None":
    """Return the lines of a file of settings: number, name, value; None if there is no file.

    The name is in small letters, with single blanks; the value None where the line has no "=".
    Raises RunError for a file that cannot be read, or that a stranger could have written.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO does not block
        with open(fd, errors="surrogateescape") as file:
            _check_trusted(path, os.fstat(fd))
            text = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        remedy = "Ask the administrator to make it readable for all."
        raise RunError(f"Cannot read {path}", why=f"{error.strerror}.", remedy=remedy) from None
    if len(text) > _LARGEST:
        raise RunError(f"Cannot read {path}", why="It has more than 1 MiB.")
    rows: list[tuple[int, str, str | None]] = []
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = line.partition("=")
        name = " ".join(name.split()).lower()
        if name and not name.startswith("#"):
            rows.append((number, name, value.strip() if equals else None))
    return rows


def _check_trusted(path: str, status: os.stat_result) -> None:
    """Refuse a file that somebody else than root and the caller has written, or may write."""
    owners = (0, os.geteuid(), _UNMAPPED if path.startswith("/etc/") else 0)
    why, remedy = "", ""
    if status.st_uid not in owners:
        why, remedy = "It belongs to another user.", f"Copy it, or: chown {os.geteuid()} {path}"
    elif status.st_mode & 0o002 and path != os.devnull:
        why, remedy = "Everybody may write to it.", f"chmod o-w {path}"
    if why:
        raise RunError(f"Cannot trust {path}", why=why, remedy=remedy)


def _read_file(site: Site, path: str) -> bool:
    """Read a file; False if it is not there."""
    settings = entries(path)
    if settings is None:
        return False
    site.path = path
    _take(site, settings, is_theirs=os.path.basename(path) in map(os.path.basename, THEIRS))
    return True


def _take(site: Site, settings: "list[tuple[int, str, str | None]]", *, is_theirs: bool) -> None:
    binds: list[str] = []
    for number, name, value in settings:
        where = f"{site.path}, line {number}"
        if value is None and name not in _IDLE:
            site.idle.append(name) if is_theirs else _report(where, name)
            continue
        value = value or ""
        if name == "bind path":
            binds += [value] if value else []
        elif name in site.on:
            # Theirs has words for a kind of overlay, or of mounts, where we have only yes.
            site.on[name] = (is_theirs and value.lower() not in _NO) or _switch(value, where)
        elif name in site.word:
            site.word[name] = value
        elif name in _LISTS:
            site.lists.setdefault(name, []).append(value)
        elif name not in _IDLE:
            site.idle.append(name) if is_theirs else _report(where, name)
            continue
        site.places[name] = where
    if "bind path" in site.places:
        site.binds = binds


def _switch(value: str, where: str) -> bool:
    if value.lower() in (*_YES, *_NO):
        return value.lower() in _YES
    raise RunError(f"{where}: cannot understand {value!r}", remedy="Say yes or no.")


_reported: "set[str]" = set()  # the doctor reads the file for each of its trials


def _report(where: str, name: str) -> None:
    if where in _reported:
        return
    _reported.add(where)
    guess = nearest(name, [*_SWITCHES, *_WORDS, *_LISTS, *_IDLE, "bind path"])
    say(
        f"{where}: there is no directive {name!r}" + (f"; did you mean {guess!r}?" if guess else "")
    )
