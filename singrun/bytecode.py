"""All modules of the runtime in one file of compiled code: a quarter of a launch.

Finding and reading thirty small .pyc files costs Python 4 ms, one file 0.5 ms. It
is a cache as they are: made by whoever may write beside them, checked against the
sources' times and sizes, and nobody needs it. Imports no other module of ours.
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
# Of these folders a launch takes most modules; of ``hardware`` and ``verbs`` hardly ever one.
_FOLDERS = ("", "environment/", "images/", "mounts/", "namespaces/")
_RARE = (
    *("__init__.py", "__main__.py", "bytecode.py", "bundle.py", "terminal.py"),
    *("launch_log.py", "title.py", "images/contents.py"),
    *("subordinate.py", "images/data.py", "images/pulled.py", "images/sif.py"),
    *("images/library.py", "images/pull_cache.py"),
    *("images/unpacking.py", "images/unpacker.py", "namespaces/capabilities.py"),
    *("namespaces/holding.py", "namespaces/limits.py", "namespaces/mapping.py"),
)

# By a file's path in the package: its time in ns, its size, its code, as bytes of marshal if it is
# one of SOMETIMES.
Codes = dict[str, "tuple[int, int, CodeType | bytes]"]


def install(directory: str) -> None:
    """Let ``import`` take the modules in ``directory`` from the one file, if that is of today."""
    path = f"{directory}/__pycache__/singrun.{sys.implementation.cache_tag}-{sys.hexversion:x}.code"
    try:
        with open(path, "rb", buffering=0) as file:
            codes: Codes = loads(file.read())  # noqa: S302  as Python does with a .pyc
        if all(_state(f"{directory}/{name}") == codes[name][:2] for name in codes):
            sys.meta_path.insert(0, _Finder(directory, codes))
            return
    except (OSError, EOFError, ValueError, TypeError):
        pass  # there is none, or it is damaged
    try:
        _write(directory, path)
    except OSError:
        return  # not ours to write


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _write(directory: str, path: str) -> None:
    if not os.access(os.path.dirname(path), os.W_OK):
        return
    codes: Codes = {}
    for folder in _FOLDERS:
        for name in os.listdir(f"{directory}/{folder}"):
            if name.endswith(".py") and folder + name not in _RARE:
                codes[folder + name] = _compiled(directory, folder + name)
    new = f"{path}.{os.getpid()}"
    with open(new, "wb") as file:
        file.write(dumps(codes))
    os.rename(new, path)


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
        if not name.startswith("singrun."):
            return None
        tail = name.removeprefix("singrun.").replace(".", "/")
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
