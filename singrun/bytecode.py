"""The runtime's modules in one file of compiled code: a quarter of a launch.

Finding and reading thirty small .pyc files costs Python 4 ms, one file 0.5 ms, and to make modules
without importlib saves as much again. It is a cache as they are: made by whoever may write beside
them, checked against the sources' times and sizes, and nobody needs it. Imports no other module of
ours.
"""

import os
import sys
from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

# What some launches take: by FUSE, with --pid, where a site has a policy, of a job step or into an
# instance. Found elsewhere one would cost 0.25 ms; it is in the file, decoded by who imports it.
SOMETIMES = (
    *("instances.py", "images/fuse.py", "images/policy.py", "images/verdicts.py"),
    *("mounts/mountinfo.py", "namespaces/entering.py", "namespaces/joining.py"),
    *("namespaces/rendezvous.py", "namespaces/waiting.py"),
)
_PACKAGE = "singrun."

# By a file's path in the package: its time in ns, its size, its code, as bytes of marshal if it is
# one of SOMETIMES. The others are in the order in which modules may be made of them.
Codes = dict[str, "tuple[int, int, CodeType | bytes]"]


def install(directory: str) -> bool:
    """Make the modules that every launch takes, and let ``import`` find the others in the file.

    directory: of the sources. False: there is no file, or it is not of these, or damaged.
    """
    try:
        with open(_path(directory), "rb", buffering=0) as file:
            codes: Codes = loads(file.read())  # noqa: S302  as Python does with a .pyc
        if any(_state(f"{directory}/{name}") != codes[name][:2] for name in codes):
            return False
    except (OSError, EOFError, ValueError, TypeError):
        return False
    sys.meta_path.insert(0, _Finder(directory, codes))
    for file_name, (_, _, code) in codes.items():
        if not isinstance(code, bytes):
            _make(directory, file_name, code)
    return True


def _path(directory: str) -> str:
    # With hexversion: betas of one version have one cache_tag, and not always one bytecode.
    return f"{directory}/__pycache__/singrun.{sys.implementation.cache_tag}-{sys.hexversion:x}.code"


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _make(directory: str, file_name: str, code: "CodeType") -> None:
    """Do what importlib does for an import, but for its locks, specifications and searches."""
    name = _PACKAGE + file_name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if name in sys.modules:
        return  # one that came before has imported it
    module = type(sys)(name)
    parent, _, tail = name.rpartition(".")
    module.__file__, module.__package__ = f"{directory}/{file_name}", parent
    if file_name.endswith("/__init__.py"):
        module.__package__, module.__path__ = name, [os.path.dirname(module.__file__)]
    sys.modules[name] = module
    exec(code, module.__dict__)  # noqa: S102
    setattr(sys.modules[parent], tail, module)


def write(directory: str) -> None:
    """Write the file, if we may, of the modules that are imported by now, and of SOMETIMES."""
    path = _path(directory)
    try:
        if os.access(os.path.dirname(path), os.W_OK) and not sys.dont_write_bytecode:
            _write(directory, path)
    except OSError:
        return  # a full disk, or no sources


def _write(directory: str, path: str) -> None:
    # importlib moves a module that it has executed to the end of sys.modules, behind all that the
    # module imports.
    names = [name for name in sys.modules if name.startswith(_PACKAGE) and name != __name__]
    codes = {name: _compiled(directory, name) for name in [*map(_file_name, names), *SOMETIMES]}
    # The ranks of a node may all write it at once: each a file of its own, then rename(2).
    new = f"{path}.{os.getpid()}"
    with open(new, "wb") as file:
        file.write(dumps(codes))
    os.rename(new, path)


def _file_name(name: str) -> str:
    is_package = hasattr(sys.modules[name], "__path__")
    return _stem(name) + ("/__init__.py" if is_package else ".py")


def _stem(name: str) -> str:
    return name.removeprefix(_PACKAGE).replace(".", "/")


def _compiled(directory: str, name: str) -> "tuple[int, int, CodeType | bytes]":
    """Compile without what no launch reads: docstrings, annotations, columns of tracebacks.

    They would be a fifth of the file, and a tenth of the time to import from it.
    """
    import ast  # who writes the file takes the time

    path = f"{directory}/{name}"
    state = _state(path)
    with open(path, "rb") as source:
        tree = ast.parse(source.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, (ast.stmt, ast.expr, ast.excepthandler)):
            node.col_offset = node.end_col_offset = -1  # none is known
    code = compile(tree, path, "exec", dont_inherit=True, optimize=2)
    return *state, dumps(code) if name in SOMETIMES else code


class _Finder:
    """Finds and loads modules of the package. importlib.abc, MetaPathFinder and Loader."""

    def __init__(self, directory: str, codes: Codes) -> None:
        self._directory, self._codes = directory, codes

    def find_spec(self, name: str, _path: object, _target: object = None) -> "ModuleSpec | None":
        if not name.startswith(_PACKAGE):
            return None
        tail = _stem(name)
        module, package = f"{tail}.py", f"{tail}/__init__.py"
        key = module if module in self._codes else package
        if key not in self._codes:
            return None
        kind: Any = type(__spec__)  # ModuleSpec, which importlib.machinery is slow to give
        spec: ModuleSpec = kind(name, self, origin=f"{self._directory}/{key}", loader_state=key)
        if key is package:
            spec.submodule_search_locations = [f"{self._directory}/{tail}"]
        return spec

    def create_module(self, _spec: "ModuleSpec") -> None:
        """Leave it to Python."""

    def exec_module(self, module: "ModuleType") -> None:
        key = module.__spec__.loader_state  # type: ignore[union-attr]  # ours, of find_spec
        code = self._codes[key][2]
        exec(loads(code) if isinstance(code, bytes) else code, module.__dict__)  # noqa: S102, S302
