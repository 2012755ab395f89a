"""Puts man pages and completion into the wheel, the pages made of what the commands say.

That needs click alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMANDS = ("singbuild", "singrun", "singularity", "apptainer")
PAGES = ("singbuild", "singrun")  # the others' words need every library: make man
COMPLETIONS = {  # each shell's directory and name for the file of a command
    "bash": ("bash-completion/completions", "{name}"),
    "zsh": ("zsh/site-functions", "_{name}"),
    "fish": ("fish/vendor_completions.d", "{name}.fish"),
}
STUBS = {  # of the others: their table is made when it is first asked for
    "bash": 'eval "$({name} completion bash)"\n',
    "zsh": '#compdef {name}\neval "$({name} completion zsh)"; _{name} "$@"\n',
    "fish": "{name} completion fish | source\n",
}
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
        own = {"PATH": path, "PYTHONPATH": found, "SINGRUN_PYTHON": sys.executable}
        environment = os.environ | own
        words = [sys.executable, "-m", "singbuild.cli.manpages", str(pages), *PAGES]
        subprocess.run(words, cwd=root, env=environment, check=True)
        for shell, (directory, form) in COMPLETIONS.items():
            for name in COMMANDS:
                text = STUBS[shell].format(name=name)
                if name in PAGES:
                    words = [sys.executable, "-m", "singbuild", "completion", shell, name]
                    text = subprocess.check_output(words, cwd=root, env=environment, text=True)
                file = Path(self._place.name, shell, form.format(name=name))
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
                build_data["shared_data"][str(file)] = f"share/{directory}/{file.name}"
        for page in sorted(pages.glob("man?/*")):
            build_data["shared_data"][str(page)] = f"share/man/{page.parent.name}/{page.name}"
