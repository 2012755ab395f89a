"""Puts the man pages into the wheel: made of what the commands say, which needs click alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LAUNCHER = """#!/bin/sh
exec {python} -c 'import sys; sys.path.insert(0, "{root}")
from singbuild.cli.main import main; main()' "$@"
"""


class ManPages(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook. An installation that stays a checkout has no pages: make man."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the pages, and add them to the wheel's data."""
        if version == "editable":
            return
        root, self._place = Path(self.root), tempfile.TemporaryDirectory()
        commands, pages = Path(self._place.name, "bin"), Path(self._place.name, "man")
        commands.mkdir()
        for name in ("singrun", "singularity", "apptainer"):
            (commands / name).symlink_to(root / "bin" / name)
        launcher = commands / "singbuild"
        launcher.write_text(LAUNCHER.format(python=sys.executable, root=root))
        launcher.chmod(0o755)
        path = f"{commands}:{os.environ.get('PATH', os.defpath)}"
        found = os.pathsep.join([str(root), *filter(None, sys.path)])
        subprocess.run(
            [sys.executable, "-m", "singbuild.cli.manpages", str(pages)],
            cwd=root,
            env=os.environ | {"PATH": path, "PYTHONPATH": found, "SINGRUN_PYTHON": sys.executable},
            check=True,
        )
        for page in sorted(pages.glob("man?/*")):
            build_data["shared_data"][str(page)] = f"share/man/{page.parent.name}/{page.name}"
