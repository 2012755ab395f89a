"""The runtime's modules in one file of compiled code: a quarter of a launch.

Finding and reading thirty small .pyc files costs Python 4 ms, one file 0.5 ms, and to make modules
without importlib saves as much again. It is a cache as they are: made by whoever may write beside
them (compilation.py), checked against the sources' times and sizes, and nobody needs it. It holds
this module, too, which __main__ executes before there are others: to import it costs 0.5 ms.
"""

import posix  # os is light_os.py's to import
import sys
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

_PACKAGE = "singrun."

# By a file's path in the package: its time in ns, its size, its code. They are in the order in
# which modules may be made of them.
Codes = dict[str, "tuple[int, int, CodeType]"]


def start(directory: str, path: str, extension: str, codes: Codes) -> None:
    """Run the command line. Never returns.

    directory: of the sources. path: of the file. extension, codes: what it holds, the path of
    Python's _ctypes and our modules; nothing if it must be written.
    """
    others = f"{path}.others"  # those modules that some launches take
    is_current = bool(codes) and _are_current(directory, codes)
    if is_current:
        sys.meta_path.insert(0, _Finder(directory, others, extension))
        for file_name, (_, _, code) in codes.items():
            if file_name != "bytecode.py":
                _make(directory, file_name, code)
    from singrun.cli import main  # imports the rest, if that is not there by now

    if not is_current:
        from singrun import compilation

        compilation.write(directory, path, others)
    main()


def _are_current(directory: str, codes: Codes) -> bool:
    try:
        for name, (time, size, _) in codes.items():
            status = posix.stat(f"{directory}/{name}")
            if status.st_mtime_ns != time or status.st_size != size:
                return False
    except OSError:
        return False  # no sources
    return True


def _make(directory: str, file_name: str, code: "CodeType") -> None:
    """Do what importlib does for an import, but for its locks, specifications and searches."""
    file = f"{directory}/{file_name}"
    name = f"{_PACKAGE}{file_name}".removesuffix(".py").replace("/", ".")
    is_package = name.endswith(".__init__")
    name = name.removesuffix(".__init__")
    if name in sys.modules:
        return  # one that came before has imported it
    sys.modules[name] = module = type(sys)(name)
    parent, _, tail = name.rpartition(".")
    module.__file__, module.__package__ = file, parent
    if is_package:
        module.__package__, module.__path__ = name, [file.rpartition("/")[0]]
    exec(code, module.__dict__)  # noqa: S102
    if parent:
        setattr(sys.modules[parent], tail, module)


class _Finder:
    """Finds and loads modules of the package. importlib.abc, MetaPathFinder and Loader.

    It finds ``extension``, too, for which Python would read a directory: 0.1 ms.
    """

    def __init__(self, directory: str, path: str, extension: str) -> None:
        self._directory, self._path, self._extension = directory, path, extension
        self._codes: dict[str, bytes] | None = None  # as marshal has them

    def find_spec(self, name: str, _path: object, _target: object = None) -> "ModuleSpec | None":
        kind: Any = type(sys.__spec__)  # ModuleSpec, which importlib.machinery is slow to give
        if name == "_ctypes" and self._has_extension():
            files: Any = sys.modules["_frozen_importlib_external"]
            loader = files.ExtensionFileLoader(name, self._extension)
            extension: ModuleSpec = kind(name, loader, origin=self._extension)
            return extension
        if not name.startswith(_PACKAGE):
            return None
        if self._codes is None:
            self._codes = self._read()
        key = f"{name.removeprefix(_PACKAGE).replace('.', '/')}.py"
        if key not in self._codes:
            return None
        codes = {key: loads(self._codes[key])}  # noqa: S302
        if not _are_current(self._directory, codes):
            return None
        file, code = f"{self._directory}/{key}", codes[key][2]
        spec: ModuleSpec = kind(name, self, origin=file, loader_state=code)
        return spec

    def _has_extension(self) -> bool:
        """Whether it is of this very Python: another one of its version has its own."""
        is_ours = self._extension.rpartition("/")[0] in sys.path
        return is_ours and posix.access(self._extension, posix.R_OK)

    def _read(self) -> dict[str, bytes]:
        try:
            with open(self._path, "rb", buffering=0) as file:
                return dict(loads(file.read()))  # noqa: S302
        except (OSError, EOFError, ValueError, TypeError):
            return {}

    def create_module(self, _spec: "ModuleSpec") -> None:
        """Leave it to Python."""

    def exec_module(self, module: "ModuleType") -> None:
        spec = module.__spec__
        exec(spec.loader_state, module.__dict__)  # type: ignore[union-attr]  # noqa: S102  ours
