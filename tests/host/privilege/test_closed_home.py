"""Root who may not enter a home, as on NFS with root_squash: what lies in it is not there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.builds import User
from tests.bench.container_engines import needs
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root
OTHER = 4711


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("image")
    (place / "a.def").write_text("Bootstrap: busybox\n")
    argv = [sys.executable, "-m", "singbuild", "-q", str(place / "a.def"), str(place / "a.img")]
    subprocess.run(argv, cwd=ROOT, check=True)
    return place / "a.img"


@pytest.mark.parametrize(
    ("words", "status", "answer"),
    [
        (("verify", "IMAGE"), 0, "sound"),
        (("sign", "IMAGE"), 2, "there is no SSH key"),
        (("inspect", "IMAGE"), 0, "ext3"),
        (("config", "show"), 0, "Files: none"),
        (("backends",), 0, "busybox"),
    ],
)
def test_commands_go_without_what_is_there(
    image: Path, tmp_path: Path, words: tuple[str, ...], status: int, answer: str
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("key\n")
    (home / ".config/singbuild/keys").mkdir(parents=True)
    (home / ".config/singbuild/singbuild.conf").write_text("no setting\n")
    home.chmod(0o700)
    os.chown(home, OTHER, OTHER)
    line = [str(image) if word == "IMAGE" else word for word in words]
    # The namespace does not know the home's owner, whose root has no rights there.
    done = subprocess.run(
        ["unshare", "-U", "-r", sys.executable, "-m", "singbuild", *line],
        env=os.environ | {"HOME": str(home), "SINGBUILD_CACHEDIR": str(tmp_path / "cache")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert answer in done.stdout + done.stderr


@pytest.mark.root_itself("a user's mount by FUSE is closed to it")
@pytest.mark.parametrize("word", ["HOME", "HOME:/home/me"])
def test_a_home_of_a_users_fuse_is_told_by_its_name(image: Path, user: User, word: str) -> None:
    needs("fuse2fs")
    home, disk = user.directory / "home", user.directory / "disk"
    home.mkdir()
    os.chown(home, user.uid, user.gid)
    words = ["mke2fs", "-q", "-F", "-t", "ext2", "-E", f"root_owner={user.uid}:{user.gid}"]
    subprocess.run([*words, disk, "8M"], check=True)
    os.chown(disk, user.uid, user.gid)
    subprocess.run(["fuse2fs", disk, home, "-o", "fakeroot"], check=True, **user.become())
    argv = [sys.executable, "-m", "singrun", "exec", "--home"]
    argv += [word.replace("HOME", str(home)), str(image), "true"]
    try:
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", "-l", home], check=True)
    assert done.returncode == 255
    assert re.match(f"singrun: Cannot (mount )?bind .*{home}.*\n.*Permission denied", done.stderr)
