"""Runs one backend without the engine, in a mount namespace of its own.

unshare --mount python -m tests.bench.backend_alone MODULE ROOT CACHE KEYWORDS-AS-JSON

prints a JSON object: the pins, and the lines and steps that the user would see.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from singbuild import Rootfs, SingbuildError, Source
from singbuild.testing.engine import Recorder as Recorder  # the tests of backends take it from here

REPOSITORY = Path(__file__).parents[2]


def source(cache: Path, *, arch: str = "", **keywords: str) -> Source:
    """Return a Source as the engine makes it; its report is a Recorder."""
    return Source(keywords, arch or os.uname().machine, cache, Recorder())


def bootstrap(module: str, root: Path, cache: Path, **keywords: str) -> dict[str, Any]:
    """Resolve and bootstrap into ``root`` in a process of its own; return pins and progress."""
    argv = ["unshare", "--mount", sys.executable, "-m", "tests.bench.backend_alone"]
    argv += [module, str(root), str(cache), json.dumps(keywords)]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main(module: str, root: str, cache: str, keywords: Mapping[str, str]) -> None:
    backend = importlib.import_module(module)
    report = Recorder()
    request = Source(keywords, os.uname().machine, Path(cache), report)
    pins = backend.singbuild_resolve(request)
    backend.singbuild_bootstrap(request, pins, Rootfs(Path(root), report))
    json.dump({"pins": pins, "lines": report.lines, "steps": report.steps}, sys.stdout)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
    except SingbuildError as error:
        sys.exit(str(error))
