"""`make demo`, the first thing that anybody tries, for a user on a host that lacks most things."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import shared_directory

pytestmark = [pytest.mark.root, pytest.mark.network]
HIDDEN = ("fuse2fs", "squashfuse", "squashfuse_ll", "newuidmap", "mke2fs")


def test_make_demo_as_a_user_without_fuse2fs_and_without_fuse() -> None:
    """In a mount namespace of the test's own, in which the programs and the device are hidden."""
    with shared_directory() as directory, images.ordinary_user() as name:
        person = images.Person(name, directory)
        copy = directory / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv", ".demo", "__pycache__", ".*_cache")
        shutil.copytree(images.ROOT, copy, ignore=ignored)
        subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", copy], check=True)
        subprocess.run(["mknod", directory / "closed", "c", "10", "229"], check=True)
        (directory / "closed").chmod(0o600)
        (directory / "nothing").touch(0o644)
        paths = [path for program in HIDDEN if (path := shutil.which(program))]
        hide = [f"mount --bind {directory}/nothing {path}" for path in paths]
        hide.append(f"mount --bind {directory}/closed /dev/fuse")
        command = person.words("make", "-C", copy, "demo")
        unshared = ["unshare", "-m", "sh", "-ec", f'{"; ".join(hide)}; exec "$@"', "sh"]
        environment = person.environment() | {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.lower().endswith("_proxy")
        }
        done = subprocess.run(
            [*unshared, *command],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Hello from busybox.img, {name}!\n  - hello\n  - world\n" in done.stdout
        assert f"uid={person.uid}({name}) gid={person.gid}({name})" in done.stdout
