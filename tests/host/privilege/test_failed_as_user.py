"""A user's failed build in each mode: a shell where %post was, and --resume ends as root's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.privilege import recorder
from tests.bench import singrun_images as images
from tests.bench.builds import User, building_user
from tests.host.build.test_failed import failing, users_terminal
from tests.host.privilege.test_privilege import MODES

pytestmark = [pytest.mark.root, pytest.mark.root_itself("it has one user build in each mode")]

OWNERS_SET = (
    "chown 1000:50 /tmp/answer; mknod /disk b 8 1; chown 3:4 /disk; chmod 640 /disk; echo ok-$?"
)


@pytest.mark.parametrize("mode", MODES)
def test_a_shell_gives_owners_and_devices_as_post_does(mode: str, user: User) -> None:
    path = user.directory / "recipe.def"
    path.write_text(failing("post"))
    words = ("--on-error=shell", "--privilege", mode, path, "a.img")
    shell = users_terminal(user, *words)
    shell.expect("%post> ")
    shell.type(f"{OWNERS_SET}\n")
    shell.expect("ok-0\r\n")
    scratch = next(user.directory.glob("singbuild-scratch-*"))
    noted = recorder.owners(scratch / "rootfs", scratch / "owners")
    disk, answer = noted[b"disk"], (scratch / "rootfs/tmp/answer").stat()
    assert (disk.mode, disk.device) == (0o60640, os.makedev(8, 1))
    if mode == "one-id":
        assert (disk.uid, disk.gid) == (3, 4)
        owner = noted[b"tmp/answer"]
        assert (owner.uid, owner.gid) == (1000, 50)
    else:
        ranges = [images.subordinate_ids(user.name, kind)[0] for kind in ("uid", "gid")]
        assert (answer.st_uid, answer.st_gid) == (ranges[0][999], ranges[1][49])
    shell.type("exit\n")
    assert shell.status() == 7
    assert not user.left()


LONG = """\
Bootstrap: busybox
%post
    mkdir -p /srv && chown 33:33 /srv
    test -e /srv/disk || mknod -m 640 /srv/disk b 8 1
    touch /srv/file && chown 1000:50 /srv/file && chmod 6755 /srv/file
    {last}
    touch /srv/late && chown 7:8 /srv/late
"""


def resumed(user: User, *words: str) -> Path:
    """What a build makes that failed in %post, and goes on there."""
    path = user.directory / "recipe.def"
    target = user.directory / "a.img"
    for last, more, status in (("false", "--on-error=keep", 7), ("true", "--resume", 0)):
        path.write_text(LONG.format(last=last))
        process = user.start(more, *words, str(path), str(target))
        output = process.communicate()[1]
        assert process.returncode == status, output
    assert not user.left()
    return target


@pytest.fixture(scope="module")
def of_root() -> Iterator[Path]:
    """What root makes of it."""
    with building_user("root") as root:
        yield resumed(root)


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_build_ends_as_roots(mode: str, user: User, of_root: Path) -> None:
    image = resumed(user, "--privilege", mode)
    assert image.read_bytes() == of_root.read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_only_the_note_of_it_tells_it_from_an_unbroken_build(mode: str, user: User) -> None:
    image = resumed(user, "--privilege", mode)
    words = ("--no-cache", "--privilege", mode, str(user.directory / "recipe.def"), "b.img")
    assert user.start(*words).wait() == 0
    process = user.start("diff", str(image), "b.img")
    lines = process.communicate()[0].splitlines()
    assert lines[0].startswith("~ /.singularity.d/build.json: content ")
    assert (process.returncode, lines[1]) == (1, "0 packages and 1 file differ")
