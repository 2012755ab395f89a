"""Writes the runtime's compiled code, which bytecode.py reads at the next launches."""

import os
import sys
from marshal import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

# Modules of some launches: by FUSE, with an overlay or --pid, with options from variables, where a
# site has a policy, of a job step or into an instance. Imported from its .pyc, one costs 0.25 ms;
# they have a file of their own, as each launch would spend 0.05 ms on reading their 90 KB.
SOMETIMES = (
    *("instances.py", "option_variables.py"),
    *("images/fuse.py", "images/overlay.py", "images/policy.py", "images/verdicts.py"),
    *("mounts/mountinfo.py", "namespaces/entering.py", "namespaces/joining.py"),
    *("namespaces/rendezvous.py", "namespaces/waiting.py"),
)
_PACKAGE = "singrun."
_FIRST = ("__init__.py", "bytecode.py", "light_os.py")


def write(directory: str, path: str, others: str) -> None:
    """Write the file ``path``, if we may, of the modules that are imported by now.

    directory: of the sources. others: the file of SOMETIMES.
    """
    try:
        if os.access(os.path.dirname(path), os.W_OK) and not sys.dont_write_bytecode:
            rare = {name: dumps(compiled(directory, name)) for name in SOMETIMES}
            _replace(others, dumps(rare))
            names = dict.fromkeys([*_FIRST, *_imported()])
            codes = {name: compiled(directory, name) for name in names}
            extension = getattr(sys.modules["_ctypes"], "__file__", "")  # "": it is built in
            _replace(path, dumps((extension, codes)))
    except OSError:
        return  # a full disk, or no sources


def _imported() -> list[str]:
    # importlib moves a module that it has executed to the end of sys.modules, behind all that the
    # module imports.
    names = [name for name in sys.modules if name.startswith(_PACKAGE) and name != __name__]
    return [_file_name(name) for name in names]


def _replace(path: str, data: bytes) -> None:
    # The ranks of a node may all write it at once: each a file of its own, then rename(2).
    new = f"{path}.{os.getpid()}"
    try:
        with open(new, "wb") as file:
            file.write(data)
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        raise


def _file_name(name: str) -> str:
    is_package = hasattr(sys.modules[name], "__path__")
    stem = name.removeprefix(_PACKAGE).replace(".", "/")
    return stem + ("/__init__.py" if is_package else ".py")


def compiled(directory: str, name: str) -> "tuple[int, int, CodeType]":
    """Return a source's time in ns, its size, and its code without what no launch reads.

    That is docstrings, annotations, columns of tracebacks. They would be a fifth of the file, and a
    tenth of the time to import from it.
    """
    import ast  # who writes the file takes the time

    path = f"{directory}/{name}"
    status = os.stat(path)
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
    return status.st_mtime_ns, status.st_size, code
