"""What the command line asks for, as plain values."""


class Request:
    """One launch: ``verb`` on ``image`` with ``arguments``.

    binds: (source, target, read only) each. home: (source or "", target), or
    None for the caller's own. mount_with: a strategy's name, or "".
    """

    def __init__(self) -> None:
        self.verb, self.image = "", ""
        self.arguments: list[str] = []
        self.binds: list[tuple[str, str, bool]] = []
        self.home: tuple[str, str] | None = None
        self.no_home = self.contain = self.clean_environment = False
        self.pid = self.ipc = self.debug = False
        self.directory = self.mount_with = ""
