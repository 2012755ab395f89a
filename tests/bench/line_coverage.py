"""Line coverage of a run of pytest and of every process below it; `make coverage`.

No variable and no .pth file reaches all of them: users start builds from clean environments, and
singrun's Python is started with -IS. What every Python imports is its `encodings`: a copy that
starts a tracer is laid over it, in a mount namespace of the run's. The tracer sets bytes in a file
that is mapped into all processes, so that a line counts also where the process then forks, pivots
its root, executes another program or is killed. Pythons of other versions are not traced.
"""

from __future__ import annotations

import encodings
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import coverage

from singrun import syscalls

ROOT = Path(__file__).parents[2]
PACKAGES = {"singbuild": ROOT / "singbuild", "singrun": ROOT / "singrun"}
PACKAGES["plugins"] = ROOT / "plugins"
Places = dict[str, tuple[Path, int, int]]  # by a source's last words: itself, its bytes' place


def main() -> int:
    """Run pytest with the words of the command line; the status is pytest's."""
    places = _places()
    with tempfile.TemporaryDirectory(prefix="singbuild-coverage-", dir="/run") as name:
        directory = Path(name)
        directory.chmod(0o755)
        executed = directory / "executed"
        executed.write_bytes(bytes(sum(size for _, _, size in places.values())))
        executed.chmod(0o666)
        _trace_all(directory, executed, places)
        status = subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], check=False)
        report(executed.read_bytes(), places)
    return status.returncode


def _places() -> Places:
    """Give each source as many bytes as it has lines, and one for line 0."""
    places: Places = {}
    end = 0
    for package, directory in PACKAGES.items():
        above = directory if package == "plugins" else directory.parent
        for path in sorted(directory.rglob("*.py")):
            size = len(path.read_bytes().splitlines()) + 1
            places[str(path.relative_to(above))] = path, end, size
            end += size
    return places


def _trace_all(directory: Path, executed: Path, places: Places) -> None:
    """Lay the copy of `encodings` over Python's, for this process and those below it."""
    original = Path(encodings.__file__).parent
    copy = shutil.copytree(original, directory / "encodings")
    shutil.copy(Path(__file__).parent / "line_tracer.py", copy)
    starts = {name: start for name, (_, start, _) in places.items()}
    with (copy / "__init__.py").open("a") as file:
        file.write("from encodings import line_tracer\n")
        file.write(f"line_tracer.start({str(executed)!r}, {starts!r})\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", copy], check=True)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount(str(copy), str(original), "", syscalls.MS_BIND)


def report(executed: bytes, places: Places) -> None:
    """Print each file's lines that were not executed, and each package's share of those that were.

    Which lines are statements is said by coverage.py.
    """
    judge = coverage.Coverage(data_file=None, config_file=False)
    judge.get_data().add_lines(
        {
            str(path): [line for line in range(size) if executed[start + line]]
            for path, start, size in places.values()
        }
    )
    for package, directory in PACKAGES.items():
        counts = [
            _counted(judge, path) for path, _, _ in places.values() if directory in path.parents
        ]
        all_, missed = (sum(column) for column in zip(*counts, strict=True))
        print(
            f"{package:10} {all_:6} statements {missed:6} missed {100 - 100 * missed / all_:6.2f} %"
        )


def _counted(judge: coverage.Coverage, path: Path) -> tuple[int, int]:
    """Print a file's lines that were not executed; how many statements it has, how many of them."""
    _, statements, _, missing, ranges = judge.analysis2(str(path))
    if missing:
        print(f"{path.relative_to(ROOT)}: {ranges}")
    return len(statements), len(missing)


if __name__ == "__main__":
    sys.exit(main())
