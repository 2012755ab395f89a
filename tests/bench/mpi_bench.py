"""What the tests of MPI and of Slurm share: recipes/mpi.def's image and an ordinary user."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.bench import singrun_images as images
from tests.bench.builds import SINGBUILD


class MpiBench:
    """An ordinary user and the image of recipes/mpi.def."""

    def __init__(self, directory: Path, user: str) -> None:
        self.directory, self.image = directory, directory / "mpi.img"
        self.launcher = images.installed(directory)
        self.user = images.Person(user, self.launcher)
        build = [*SINGBUILD, "-q", "recipes/mpi.def", str(self.image)]
        subprocess.run(build, cwd=images.ROOT, check=True)
