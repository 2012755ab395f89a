"""What the command line asks for, as plain values, in the parts that its readers take."""


class Program:
    """What is executed, and where. directory: --pwd. why: the variable of ``env --why``."""

    def __init__(self) -> None:
        self.verb = self.directory = self.shell = self.why = ""
        self.arguments: list[str] = []


class ImageOptions:
    """Which image, and how it is written.

    path: a path, instance://NAME or the source of an image. mount_with: a strategy's name, or "".
    overlays: (path, read only), lowest first.
    """

    def __init__(self) -> None:
        self.path = self.mount_with = ""
        self.overlays: list[tuple[str, bool]] = []
        self.writable = self.writable_tmpfs = self.fetch = False


class MountOptions:
    """What of the host is seen inside.

    binds: (source, target, read only) each. home: (source or "", target), or None for the
    caller's own. contain: nothing that was not asked for.
    """

    def __init__(self) -> None:
        self.binds: list[tuple[str, str, bool]] = []
        self.scratch: list[str] = []
        self.no_mount: list[str] = []
        self.home: tuple[str, str] | None = None
        self.workdir = ""
        self.no_home = self.contain = False


class IsolationOptions:
    """Namespaces, who shares them, and who the program is. hostname: "" for the host's."""

    def __init__(self) -> None:
        self.pid = self.ipc = self.uts = self.join = self.no_join = self.as_caller = False
        self.hostname = ""


class VariableOptions:
    """The program's variables: (name, value, the option that gave it), lowest first.

    clean: none of the caller's, but for those that name user and terminal.
    """

    def __init__(self) -> None:
        self.given: list[tuple[str, str, str]] = []
        self.clean = False


class HardwareOptions:
    """Whose drivers of the host come in: each attribute is a kind of driver_lists.py."""

    def __init__(self) -> None:
        self.nv = self.rocm = self.fabric = False

    def any(self) -> bool:
        """Whether there is one."""
        return any(vars(self).values())


class Request:
    """One launch."""

    def __init__(self) -> None:
        self.program, self.image = Program(), ImageOptions()
        self.mounts, self.isolation = MountOptions(), IsolationOptions()
        self.variables, self.hardware = VariableOptions(), HardwareOptions()
        self.debug = self.plan = False
