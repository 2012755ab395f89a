"""What the command line asks for, as plain values, in the parts that its readers take."""

# The words of --mount-with: how an image becomes a directory.
LOOP, UNPACK, FUSE2FS, SQUASHFUSE = "loop", "unpack", "fuse2fs", "squashfuse"


class Program:
    """What is executed, and where. directory: --pwd. why: the variable of ``env --why``.

    no_umask: with the umask 022 and not the caller's. app: the name of one of the image's apps.
    instance: the name of the instance to start, "" for the image's name, None to start none;
    pid_file: the file for its process's number. logs: the files of its output, without ".out" and
    ".err".
    """

    def __init__(self) -> None:
        self.verb = self.directory = self.shell = self.why = self.pid_file = self.logs = ""
        self.app = ""
        self.instance: str | None = None
        self.arguments: list[str] = []
        self.no_umask = False


class ImageOptions:
    """Which image, and how it is written.

    path: a path, instance://NAME or the source of an image. mount_with: a strategy's name, or "".
    overlays: (path, read only), lowest first.
    """

    def __init__(self) -> None:
        self.path = self.mount_with = ""
        self.overlays: list[tuple[str, bool]] = []
        self.writable = self.writable_tmpfs = self.fetch = self.contents = self.no_https = False


class BindOption:
    """A path of the host that is bound inside; why: the option or variable that says so.

    directory: the one to be shown of ``source``, which is an image then; else "".
    """

    def __init__(
        self, source: str, target: str, *, read_only: bool, why: str, directory: str = ""
    ) -> None:
        self.source, self.target, self.read_only, self.why = source, target, read_only, why
        self.directory = directory


class MountOptions:
    """What of the host is seen inside.

    dns: the servers of resolv.conf. home: (source or "", target), or None for the caller's own.
    contain: nothing that was not asked for.
    """

    def __init__(self) -> None:
        self.binds: list[BindOption] = []
        self.scratch: list[str] = []
        self.dns: list[str] = []
        self.no_mount: list[str] = []
        self.home: tuple[str, str] | None = None
        self.workdir = ""
        self.no_home = self.contain = False


class IsolationOptions:
    """Namespaces, who shares them, and who the program is.

    hostname: "" for the host's. uid, gid: None for the caller's. add_caps, drop_caps: names.
    limits: of namespaces/limits.py, by option.
    """

    def __init__(self) -> None:
        self.pid = self.ipc = self.uts = self.net = self.join = self.no_join = False
        self.no_pid = False
        self.as_caller = self.fakeroot = self.keep_privs = self.no_privs = False
        self.hostname = ""
        self.uid: int | None = None
        self.gid: int | None = None
        self.add_caps: list[str] = []
        self.drop_caps: list[str] = []
        self.limits: dict[str, str] = {}

    @property
    def changes_rights(self) -> bool:
        """Whether the program has other capabilities than its user would give it."""
        return self.no_privs or bool(self.add_caps or self.drop_caps)


class VariableOptions:
    """The program's variables: (name, value, the option that gave it), lowest first.

    clean: none of the caller's, but for those that name user and terminal. evaluate: by the
    image's shell, as Singularity 3 does.
    """

    def __init__(self) -> None:
        self.assignments: list[tuple[str, str, str]] = []
        self.clean = self.evaluate = False


class HardwareOptions:
    """Whose drivers of the host come in: nv, rocm and fabric are kinds of driver_lists.py.

    by_site: the kinds that the site's file alone asks for. no_nv, no_rocm: not even then.
    devices: names of the Container Device Interface, described in ``cdi_directories``.
    """

    def __init__(self) -> None:
        self.nv = self.rocm = self.fabric = False
        self.no_nv = self.no_rocm = False
        self.by_site: list[str] = []
        self.devices: list[str] = []
        self.cdi_directories = ["/etc/cdi", "/var/run/cdi"]

    def wants_drivers(self) -> bool:
        """Whether there is a kind of drivers."""
        return self.nv or self.rocm or self.fabric


class Request:
    """One launch. option_names: those on the command line, in order."""

    def __init__(self) -> None:
        self.option_names: list[str] = []
        self.program, self.image = Program(), ImageOptions()
        self.mounts, self.isolation = MountOptions(), IsolationOptions()
        self.variables, self.hardware = VariableOptions(), HardwareOptions()
        self.debug = self.plan = False
