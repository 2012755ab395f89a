"""Puts man pages and completion into the wheel, the pages made of what the commands say.

That needs click alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMANDS = ("singbuild", "singrun", "singularity", "apptainer")
PAGES = ("singbuild", "singrun")  # the others' words need every library: make man
LAUNCHER = """#!/bin/sh
exec {python} -m singbuild "$@"
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
        (commands / "singrun").symlink_to(root / "bin/singrun")
        launcher = commands / "singbuild"
        launcher.write_text(LAUNCHER.format(python=sys.executable))
        launcher.chmod(0o755)
        path = f"{commands}:{os.environ.get('PATH', os.defpath)}"
        found = os.pathsep.join([str(root), *filter(None, sys.path)])
        subprocess.run(
            [sys.executable, "-m", "singbuild.cli.manpages", str(pages), *PAGES],
            cwd=root,
            env=os.environ | {"PATH": path, "PYTHONPATH": found, "SINGRUN_PYTHON": sys.executable},
            check=True,
        )
        for name in COMMANDS:  # bash looks for a file of the command's own name
            completion = Path(self._place.name, name)
            shutil.copy(root / "share/completion.bash", completion)
            target = f"share/bash-completion/completions/{name}"
            build_data["shared_data"][str(completion)] = target
        for page in sorted(pages.glob("man?/*")):
            build_data["shared_data"][str(page)] = f"share/man/{page.parent.name}/{page.name}"
