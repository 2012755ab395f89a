"""What of the host is seen inside: the table of mounts for one launch."""

import os

from singrun.config import Site
from singrun.errors import RunError
from singrun.identity import Caller
from singrun.mounts import binds
from singrun.mounts.rows import Bind, BindUnlessSeen, Fresh, ImageDirectory, Link, Mount
from singrun.request import BindOption, MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TEMPORARY = {"/tmp": "tmp", "/var/tmp": "var_tmp"}  # noqa: S108  the very directories are meant
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  likewise
_ALWAYS = ("/etc/localtime", "/etc/hosts")  # the site's binds that --contain keeps
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SYSTEM = ("bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "var")
_SITE_BINDS = "bind-paths"
# Where a resource manager has temporary files, and its process manager meets the ranks of MPI.
_SESSIONS = ("TMPDIR", "PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR")
NAMES = ["proc", "sys", "dev", "tmp", "home", "cwd", "hostfs", _SITE_BINDS]


class Table:
    """The mounts, in the order in which they are done; each under its name for --no-mount."""

    def __init__(
        self, options: MountOptions, caller: Caller, site: Site, names: list[str], *, own_pids: bool
    ) -> None:
        self._options, self._caller, self._site = options, caller, site
        self._own_pids = own_pids
        self.defaults: list[Mount] = []
        self.requested: list[Mount] = []
        # In the order in which they are mounted: the system's directories first, then what may lie
        # in one another from the outside in. A home below /tmp comes after /tmp.
        groups: dict[str, Callable[[], list[Mount]]] = {
            "dev": self._devices,
            "proc": self._processes,
            "sys": self._system,
            "hostfs": self._host_file_systems,
            _SITE_BINDS: self._site_binds,
            "tmp": self._temporary,
            "home": self._home,
            "cwd": lambda: self._current(names),
        }
        for name, rows in groups.items():
            if name not in options.no_mount:
                self.defaults += [row for row in rows() if row.target not in options.no_mount]
        self.requested += self._requests()

    @property
    def rows(self) -> list[Mount]:
        """Return all of them."""
        return [*self.defaults, *self.requested]

    @property
    def images(self) -> list[ImageDirectory]:
        """Return those that show what is in an image."""
        return [row for row in self.requested if isinstance(row, ImageDirectory)]

    def pin(self) -> None:
        """Take hold of all sources, with the caller's rights."""
        self._caller.lower_rights()
        for row in self.rows:
            row.pin()
        self._caller.restore_rights()

    def _devices(self) -> list[Mount]:
        how = self._site.word["mount dev"].lower()
        if how in ("no", "n", "0"):
            return []
        if self._options.contain:
            return _few_devices("--contain", _own_terminals())
        if how == "minimal":
            return _few_devices("mount dev = minimal", _binds(["ptmx", "pts"]))
        return [Bind("/dev", "/dev", why="devices")]

    def _processes(self) -> list[Mount]:
        if not self._site.on["mount proc"]:
            return []
        fresh = Fresh("proc", "/proc", why="--pid")
        return [fresh if self._own_pids else Bind("/proc", "/proc", why="processes")]

    def _system(self) -> list[Mount]:
        return [Bind("/sys", "/sys", why="the kernel")] if self._site.on["mount sys"] else []

    def _host_file_systems(self) -> list[Mount]:
        """Return binds of all the host has mounted and lets us see, besides the system's own."""
        if not self._site.on["mount hostfs"] or self._options.contain:
            return []
        from singrun.mounts import mountinfo  # few sites ask

        places = [place for place, _ in mountinfo.mounts()]
        own = ("proc", "sys", "dev", "run", *_SYSTEM, "tmp")
        bound = [p for p in places if p != "/" and p.split("/")[1] not in own]
        visible = filter(os.path.exists, bound)  # another mount may lie over it
        return [BindUnlessSeen(place, place, why="mount hostfs = yes") for place in visible]

    def _site_binds(self) -> list[Mount]:
        """Return the site's bind path and resolv.conf; what the host lacks is left out."""
        words = [w for w in self._site.binds if not self._options.contain or w in _ALWAYS]
        if self._site.on["config resolv_conf"]:
            words.append("/etc/resolv.conf")
        rows: list[Mount] = []
        for each in (each for word in words for each in _present(word)):
            row = BindUnlessSeen(each.source, each.target, why="the site's")
            row.read_only = each.read_only
            rows.append(row)
        return rows

    def _temporary(self) -> list[Mount]:
        names = [name for name in _TEMPORARY if os.path.isdir(name)]
        if not self._site.on["mount tmp"]:
            return []
        if not self._options.contain:
            shared: list[Mount] = [Bind(name, name, why="temporary files") for name in names]
            for row in shared:
                row.yields = True  # in an image where /var/tmp is a link to /tmp, they are one
            for name in _SESSIONS:
                path = os.path.normpath(os.environ.get(name, ""))
                targets = (*names, *(row.target for row in shared))
                if os.path.isabs(path) and os.path.isdir(path) and not _is_below(path, targets):
                    shared += _as_on_host(path, path, f"${name}")
            return shared
        return [self._private(_TEMPORARY[name], name, "1777") for name in names]

    def _private(self, name: str, target: str, mode: str) -> Mount:
        """Return a new directory for ``target``: in --workdir if that was given, else in memory."""
        row: Mount = Fresh("tmpfs", target, why="nothing of the host", mode=mode)
        if self._options.workdir:
            row = self._callers(Bind(f"{self._options.workdir}/{name}", target, why="--workdir"))
        row.yields = target in _TEMPORARY
        return row

    def _home(self) -> list[Mount]:
        """Return the caller's home; one that is another's (daemon has /usr/sbin) is not shared."""
        options, caller = self._options, self._caller
        if options.no_home:
            return []
        if options.home:
            source, target = options.home
            if not source:  # a directory of the host is meant, if there is one of that name
                source = target if os.path.isdir(target) else caller.home
            return [self._callers(Bind(source, target, why="--home"))]
        path = caller.home
        if path in ("", "/") or not self._site.on["mount home"]:
            return []
        # A service user's home may be /usr/sbin or /: to bind it would hide the image's own.
        if not os.path.isdir(path) or os.stat(path).st_uid != caller.uid:
            return []
        if options.contain:
            return [self._private("home", caller.home_inside, "0700")]
        home = BindUnlessSeen(path, caller.home_inside, why="home")
        return [self._callers(home), *_magic_cookie()]

    def _current(self, names: list[str]) -> list[Mount]:
        """Return the current directory by its own name and, where that differs, by $PWD's."""
        if self._options.contain or not self._site.on["user bind control"]:
            return []
        whys = ("current directory", "$PWD")
        return [row for name, why in zip(names, whys) for row in _as_on_host(".", name, why)]

    def _requests(self) -> list[Mount]:
        """Return what options ask for; these may lie over all else."""
        options = self._options
        if (options.binds or options.scratch) and not self._site.on["user bind control"]:
            raise RunError("Cannot bind", why=f"{self._site.path} says: user bind control = no.")
        rows: list[Mount] = []
        for target in options.scratch:
            name = "scratch/" + target.strip("/").replace("/", "_")
            rows.append(self._private(name, target, "1777"))
        for each in options.binds:
            if each.directory:
                image = ImageDirectory(each.source, each.directory, each.target, why=each.why)
                image.read_only = each.read_only
                rows.append(image)
                continue
            row = Bind(each.source, each.target, why=each.why, read_only=each.read_only)
            rows.append(self._callers(row))
        # What lies in another comes after it; at one depth, binds after scratch directories.
        return sorted(rows, key=lambda row: row.target.count("/"))

    def _callers(self, row: Mount) -> Mount:
        """Let mount points be made in a row that the caller writes; not with sudo's rights."""
        row.adopted = not row.read_only and not self._caller.behind_sudo
        return row


def home(options: MountOptions, caller: Caller) -> str:
    """Return the home directory as seen inside."""
    return options.home[1] if options.home else caller.home_inside


def make_workdir(table: Table, options: MountOptions) -> None:
    """Make the directories below --workdir that the table binds."""
    if options.workdir and not os.path.isdir(options.workdir):
        remedy = "Make it first, or name a directory that there is."
        raise RunError(f"There is no directory {options.workdir}", why="--workdir", remedy=remedy)
    for row in table.rows:
        if isinstance(row, Bind) and row.why == "--workdir":
            os.makedirs(row.source, 0o700, exist_ok=True)


def _present(word: str) -> list[BindOption]:
    if not os.path.exists(word.split(":")[0]):
        return []
    return binds.parse(word)


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{place}/") for place in places)


def _as_on_host(source: str, place: str, why: str) -> list[Mount]:
    """Bind a directory on its own name, if the image has nothing there."""
    top, _, below = place.lstrip("/").partition("/")
    if not top or (top in _SYSTEM and not below):
        return []
    bind = BindUnlessSeen(source, place, why=why)
    bind.unless_there, bind.loud = True, top not in _SYSTEM
    return [bind]


def _magic_cookie() -> list[Mount]:
    """Return the file that lets X11 programs in, where a login keeps it out of the home."""
    path = os.environ.get("XAUTHORITY", "")
    if not os.path.isabs(path) or not os.path.isfile(path):
        return []
    # Below /tmp or the home it is shared already; GDM and systemd keep it in /run/user.
    if not os.path.realpath(path).startswith("/run/"):
        return []
    return [BindUnlessSeen(path, path, why="$XAUTHORITY")]


def _few_devices(why: str, terminals: list[Mount]) -> list[Mount]:
    """Return a /dev with what every program may expect."""
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    return [
        Fresh("tmpfs", "/dev", why=why, mode="0755"),
        *_binds(_DEVICES),  # bound, not made: mknod(2) is refused in a user namespace
        *terminals,
        Fresh("tmpfs", _SHARED_MEMORY, mode="1777"),
        *(Link(text, f"/dev/{name}") for name, text in links.items()),
    ]


def _own_terminals() -> list[Mount]:
    """Return a devpts(4) without the caller's other terminals, and the one that we have.

    That is /dev/console, as bubblewrap and Apptainer have it, so that ttyname(3) finds it.
    """
    pts = Fresh("devpts", "/dev/pts", ptmxmode="0666", mode="0620")
    pts.has_devices = True
    rows: list[Mount] = [pts, Link("pts/ptmx", "/dev/ptmx")]
    for fd in range(3):
        if os.isatty(fd):
            return [*rows, Bind(os.ttyname(fd), "/dev/console")]
    return rows


def _binds(names: "Iterable[str]") -> list[Mount]:
    """Return binds of devices that the host has."""
    paths = [f"/dev/{name}" for name in names if os.path.exists(f"/dev/{name}")]
    return [Bind(path, path) for path in paths]
