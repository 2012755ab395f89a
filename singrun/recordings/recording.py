"""A launch of the plain kind is noted while it is made, so that player.c can make it again.

Plain: an ordinary user's `exec` of an image, unpacked or by a FUSE program, without a policy, a
log, other ranks or a process that waits. What cannot be checked cheaply and exactly is not
recorded: such launches stay Python's, as all do where the player is not installed.
docs/architecture.md.
"""

import os

from singrun import config, program, syscalls
from singrun.environment import assignments, inherited
from singrun.environment import variables as variables_
from singrun.errors import RunError, spelling
from singrun.images import image as images
from singrun.images import strategies
from singrun.mounts.root import Root
from singrun.mounts.rows import Bind
from singrun.namespaces import job_step
from singrun.recordings import calls, directory, facts, form
from singrun.request import UNPACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from singrun.config import Site
    from singrun.environment.inherited import Environment
    from singrun.identity import Caller
    from singrun.images.image import Image
    from singrun.mounts.launch_table import Table
    from singrun.origin import Origin
    from singrun.request import Request

# Not pwd: where a link of the host leads to is known only once it has been followed.
_OPTIONS = {"bind", "no-home", "join", "no-join", "no-mount", "mount-with"}
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_METADATA = ".singularity.d"
_ACTION = "/.singularity.d/actions/exec"
# Files of the image that are looked at inside by their paths, and not by Root.open().
_INSIDE = ("bin/sh", "environment", ".singularity.d/actions/exec")


class Recording:
    """One that is being made. place: a descriptor of its directory, its name there.

    tree: the image's files in the cache, -1 where a FUSE program serves them.
    """

    def __init__(
        self,
        place: "tuple[int, str]",
        tree: int,
        notes: calls.Calls,
        records: "facts.Facts",
        request: "Request",
        caller: "Caller",
    ) -> None:
        self._directory, self._name = place
        self._tree, self._records = tree, records
        self._request, self._caller = request, caller
        self._calls = notes

    def finish(self, image: str, variables: "Environment") -> None:
        """Write it, right before the program is executed. variables: those of the action."""
        self._calls.stop()
        try:
            data = form.encoded(self._all(image, variables)) if self._calls.is_whole else b""
        except (KeyError, ValueError):
            data = b""
        except (OSError, RunError, facts.UncertainError):
            return  # the next launch may be certain
        is_possible = 0 < len(data) <= form.LARGEST
        try:
            directory.write(self._directory, self._name, data if is_possible else directory.FAILED)
        except OSError:
            return  # it is only of use to the next launch

    def _all(self, image: str, variables: "Environment") -> "list[form.Record]":
        if not (os.path.lexists("/bin/sh") and os.access(_ACTION, os.X_OK)):
            raise ValueError(_ACTION)  # Python has other ways, which player.c has not
        own, lines = program._OWN, program.missing_text("\1", "\2").split("\n")
        text = "".join(f"singrun: {line}\n" for line in lines)
        sections = [*self._records, *self._in_image(), *(("a", place) for place in own)]
        # Their values are facts where the image's scripts set them, too: variables.mounts().
        root = Root("/")
        names = [n for n in inherited.CALLERS if variables_._caller_lines({n: b""}, root)]
        sections += [facts.variable(os.fsdecode(name)) for name in names]
        scripts = assignments.scripts()
        if scripts is not None:
            sections += [facts.variable(os.fsdecode(n)) for n in assignments.expanded(scripts)]
        sections += [("m", text), (".",), *_needed(self._calls.records), (".",)]
        defaults = inherited._NO_HOME_LIBRARIES
        sections += [("f", *pair) for pair in defaults.items()] + [("v", "PYTHONHOME")]
        own_variables = inherited.program_environment({}, image, self._request, self._caller)
        names = [name for name in own_variables if name not in defaults] + [b"PWD"]
        sections += [("=", name, variables[name]) for name in names]
        exported = assignments.without_shell(variables)
        if exported is not None and scripts is not None:
            sections += [("z",)]
            names = [*(assignments.evaluate(scripts, {}) or {})]
            sections += [("=", name, exported[name]) for name in names]
        return [*sections, ("X", _ACTION)]

    def _in_image(self) -> "facts.Facts":
        """Return what was looked for in the image's root, as it is in its files alone.

        ValueError: what was read of it is not the image's own, as over a link that leads to a bind.
        """
        looks = {
            (path, flags & ~(os.O_NONBLOCK | os.O_NOCTTY)) for path, flags in self._calls.looks
        }
        looks |= {(path, flags) for path in _INSIDE for flags in (0, os.O_NOFOLLOW)}
        tree = self._tree if self._tree >= 0 else self._calls.files
        if tree < 0:
            raise ValueError("another way was taken")
        rows: "facts.Facts" = []  # noqa: UP037  3.9
        inside = os.open("/", os.O_PATH | os.O_DIRECTORY)
        for path, flags in sorted(looks):
            text = _seen(tree, path, flags | os.O_PATH)
            is_read = path in _INSIDE or path.startswith(_METADATA)
            if is_read and _seen(inside, path, flags | os.O_PATH) != text:
                raise ValueError(path)
            link = os.O_PATH | os.O_NOFOLLOW
            if is_read and text[0] == "-" and _seen(tree, path, link)[0] != "-":
                raise ValueError(path)  # a link to nothing, where the host may have something later
            rows.append(("t", flags | os.O_PATH, path, text))
        return rows if self._tree >= 0 else []  # FUSE: the image's file tells what is in it


def begin(
    place: "tuple[int, str]",
    words: "list[str]",
    request: "Request",
    image: "Image",
    site: "Site",
    table: "Table",
    origin: "Origin",
) -> "Callable[[str, Environment], None] | None":
    """Begin to note the calls of a launch, if it is of the plain kind.

    place: directory.place_of(). words: those before the program. Return Recording.finish.
    """
    if not is_plain(words, request, image, site, table, origin, joins=False):
        return None
    try:
        records = facts.host(words, site, origin.caller, table)
        records += facts.of_image(image, request.image.path)
        more, tree, program = of_files(image, request, site)
    except (OSError, RunError, facts.UncertainError):
        return None
    notes = calls.Calls(program)
    return Recording(place, tree, notes, records + more, request, origin.caller).finish


def of_files(image: "Image", request: "Request", site: "Site") -> "tuple[facts.Facts, int, str]":
    """Return the facts of the image's files; their tree in the cache, or the FUSE program's path.

    Raises UncertainError, OSError, RunError.
    """
    way, cached = strategies.to_read(image, request.image, site), f"{site.cache}/{image.stamp}"
    if way == UNPACK:
        records = facts.of_cache(site.cache, cached)
        return records, os.open(f"{cached}/tree", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW), ""
    program = facts.fuse_program(way)
    place = "" if request.image.mount_with else cached
    return facts.of_fuse(way, program, place), -1, program


def is_plain(
    words: "list[str]",
    request: "Request",
    image: "Image",
    site: "Site",
    table: "Table",
    origin: "Origin",
    *,
    joins: bool,
) -> bool:
    """Whether a launch is of the plain kind, alone or, ``joins``, as one of several ranks."""
    uid, options = os.geteuid(), request.image
    if words[0] != "exec" or words[-1] != request.image.path or len(words) > form.MOST_WORDS:
        return False
    if uid == 0 or {*os.getresuid()} != {uid} or len({*os.getresgid()}) > 1:
        return False
    if request.debug or spelling() or config._reported:
        return False
    if not _OPTIONS.issuperset(request.option_names) or job_step.want_joining(request) != joins:
        return False
    if options.writable or options.overlays or options.writable_tmpfs or image.dirty:
        return False
    if not image.stamp or os.path.lexists(images.POLICY):
        return False
    if config.log_of(site) or site.on["mount hostfs"]:
        return False
    if origin.overrides or table.images or _is_nested(table) or request.hardware.wants_drivers():
        return False
    return "$" not in site.word["cache directory"] and not _is_confined()


def _is_confined() -> bool:
    """Whether AppArmor treats user namespaces by the program that makes them: Ubuntu 24.04."""
    try:
        with open(_APPARMOR) as file:
            return file.read().strip() != "0"
    except FileNotFoundError:
        return False


def _seen(root: int, path: str, flags: int) -> str:
    """Return the identity of a file in a root, or -ERRNO."""
    try:
        fd = syscalls.openat2(root, path, flags, syscalls.RESOLVE_IN_ROOT)
    except OSError as error:
        return f"-{error.errno}"
    try:
        return facts.settled(os.fstat(fd))
    finally:
        os.close(fd)


def _is_nested(table: "Table") -> bool:
    """Whether a row lies in another where the host may lack its mount point."""
    rows = [row for row in table.rows if isinstance(row, Bind)]
    moved = [row for row in rows if row.source not in (row.target, ".")]
    places = [row.target for row in rows] + [os.getcwd(), os.environ.get("PWD", "")]
    inner = [(row.target, outer.target) for row in moved for outer in rows]
    inner += [(place, outer.target) for place in places for outer in moved]
    return any(place.startswith(f"{outer}/") for place, outer in inner)


def _needed(records: "list[form.Record]") -> "list[form.Record]":
    """Return records without what was opened only to be looked at."""
    used = {each[1] for each in records if each[0] in {*"MAWFKYGEI"}}
    used |= {word for each in records for word in _registers_in(each)}
    opened = {each[1] for each in records if each[0] in {*"OR"} and not _makes_file(each)}
    needless = opened - used
    return [each for each in records if not (each[0] in {*"ORC"} and each[1] in needless)]


def _makes_file(record: "form.Record") -> bool:
    return record[0] == "O" and bool(int(record[4]) & os.O_CREAT)


def _registers_in(record: "form.Record") -> "list[int]":
    """Return the registers that a record takes a directory or a path from."""
    letter, *fields = record
    at = {"O": 1, "R": 1, "T": 1, "M": 1, "D": 0, "L": 1, "S": 1}.get(str(letter), -1)
    numbers = [each for each in fields[at : at + 1] if isinstance(each, int)] if at >= 0 else []
    for each in fields:
        parts = each.split("\2") if isinstance(each, str) else []
        numbers += [int(part) for part in parts[1::2]]
    return numbers
