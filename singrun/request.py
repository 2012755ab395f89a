"""What the command line asks for, as plain values."""


class Request:
    """One launch: ``verb`` on ``image`` with ``arguments``.

    binds: (source, target, read only) each. home: (source or "", target), or
    None for the caller's own. mount_with: a strategy's name, or "". overlays:
    (path, read only), lowest first. variables: (name, value, the option that
    gave it), lowest first. why: the variable that ``env --why`` asks about.
    """

    def __init__(self) -> None:
        self.verb, self.image = "", ""
        self.arguments: list[str] = []
        self.binds: list[tuple[str, str, bool]] = []
        self.overlays: list[tuple[str, bool]] = []
        self.variables: list[tuple[str, str, str]] = []
        self.scratch: list[str] = []
        self.no_mount: list[str] = []
        self.home: tuple[str, str] | None = None
        self.no_home = self.contain = self.clean_environment = False
        self.pid = self.ipc = self.uts = self.debug = self.plan = self.fetch = False
        self.nv = self.rocm = self.fabric = False
        self.join = self.no_join = False
        self.writable = self.writable_tmpfs = self.as_caller = False
        self.directory = self.mount_with = self.workdir = self.hostname = self.shell = ""
        self.why = ""
