"""Which shell `singrun shell` starts in an image of the builder's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.builds import Build
from tests.bench.host import shared_directory

pytestmark = pytest.mark.root
RECIPE = """\
Bootstrap: busybox
%post
    printf '#!/bin/sh\\necho bash: "$@"\\n' >/bin/bash
    chmod 755 /bin/bash
"""


def test_the_users_shell_else_bash_else_sh(
    tmp_path: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    done = singbuild(recipe(RECIPE), "a.img")
    assert done.returncode == 0, done.stderr
    with shared_directory() as directory, images.ordinary_user() as name:
        launcher = images.installed(directory)
        people = [images.Person(who, launcher) for who in ("root", name)]
        image = directory / "a.img"
        image.write_bytes((tmp_path / "a.img").read_bytes())

        def shell(person: images.Person, own: str, *options: str) -> str:
            environment = person.environment() | {"SHELL": own}
            return person.output("shell", *options, image, "-c", "echo $0", env=environment)

        for person in people:
            assert shell(person, "/bin/ash") == "/bin/ash\n"
            assert shell(person, "/usr/bin/zsh") == "bash: --norc --noprofile -c echo $0\n"
            assert shell(person, "/bin/ash", "--shell", "/bin/sh") == "/bin/sh\n"
        subprocess.run(["debugfs", "-w", "-R", "rm /bin/bash", image], check=True)
        for person in people:
            assert shell(person, "/usr/bin/zsh") == "/bin/sh\n"
        images.wait_for_daemons(str(image))
