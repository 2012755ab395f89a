"""Writes the runtime as one file, for a site to drop on its nodes: python3 -m singrun.bundle FILE.

The file is a shell script and, behind that, a zip archive of modules, compiled
and as source; another version of Python takes the source. Nothing in it is
packed, so that nothing has to be unpacked at start.
"""

import importlib.util
import os
import sys
import zipfile

_MAIN = "from singrun.cli import main\n\nmain()\n"
# Run by Python as a script, an archive costs 7 ms more (runpy); so this imports from it.
_LAUNCHER = """\
#!/bin/sh
# singrun in one file: a shell script, and behind it a zip archive for Python.
python=${SINGRUN_PYTHON-}
for minor in 14 13 12 11 10 9; do
    [ -z "$python" ] || break
    for each in "/usr/bin/python3.$minor" "/usr/local/bin/python3.$minor"; do
        [ ! -x "$each" ] || python=$each
    done
done
[ -x "$python" ] || python=$(command -v python3) || { echo 'singrun: needs python3' >&2; exit 255; }
IFS= read -r stat 2>/dev/null <"/proc/$$/stat"
trap '' INT
main='import sys; sys.path.insert(0, sys.argv.pop(1)); from singrun.cli import main; main()'
exec "$python" -IS -X utf8 -X stat="${stat##*) }" -c "$main" "$0" "$@"
"""
_TIME = (1980, 1, 1, 0, 0, 0)  # the same sources give the same file


def write(path: str) -> None:
    """Write the file ``path``, whole or not at all, executable by all."""
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.write(_LAUNCHER.encode())
        with zipfile.ZipFile(file, "a") as archive:
            _add(archive, "__main__.py", _MAIN.encode())
            for name, source in _modules():
                _add(archive, f"singrun/{name}.py", source)
                _add(archive, f"singrun/{name}.pyc", _compiled(name, source))
    os.chmod(new, 0o755)  # noqa: S103  a program for all users
    os.rename(new, path)


def _modules() -> list[tuple[str, bytes]]:
    """Return the paths in the package, without ".py", and the sources of what a node needs."""
    here = os.path.dirname(os.path.abspath(__file__))
    modules = []
    for folder, _, names in os.walk(here):
        for name in names:
            path = os.path.relpath(f"{folder}/{name}", here).removesuffix(".py")
            if name.endswith(".py") and path not in ("__main__", "bundle"):
                with open(f"{folder}/{name}", "rb") as file:
                    modules.append((path, file.read()))
    return sorted(modules)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_STORED)


def _compiled(name: str, source: bytes) -> bytes:
    """Return the module's .pyc, not to be compared with its source. PEP 552."""
    import marshal

    code = compile(source, f"singrun/{name}.py", "exec", dont_inherit=True)
    unchecked = (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(code)


if __name__ == "__main__":
    write(sys.argv[1])
