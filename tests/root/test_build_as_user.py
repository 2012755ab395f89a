"""An ordinary user builds what needs only one owner, and gets the file that root gets."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import singrun_images as images
from tests.root.conftest import SINGBUILD
from tests.singrun_images import ROOT

pytestmark = pytest.mark.root

HARD_TO_DELETE = """\
Bootstrap: busybox
%post
    mkdir -p /opt/closed/deep && touch /opt/closed/deep/file
    chmod 0 /opt/closed/deep && chmod 0500 /opt/closed
    {last}
"""


class User:
    """A real ordinary user with a directory of its own that holds scratch, cache and images."""

    def __init__(self, name: str, directory: Path) -> None:
        entry = pwd.getpwnam(name)
        self.directory = directory
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        names = ("SINGBUILD_TMPDIR", "SINGBUILD_CACHEDIR", "XDG_STATE_HOME", "HOME")
        self.env = {"PATH": os.environ["PATH"]} | dict.fromkeys(names, str(directory))
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start singbuild as this user; the recipe "-" comes from standard input."""
        return subprocess.Popen(
            [*SINGBUILD, *words],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.uid,
            group=self.gid,
            extra_groups=[self.gid],
        )

    def left(self) -> list[str]:
        """What lies in the scratch and beside the target."""
        found = [*self.directory.glob("singbuild-*"), *self.directory.glob(".a.img.*")]
        return [path.name for path in found]


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    with images.ordinary_user() as name:
        yield name


@pytest.fixture
def user(account: str) -> Iterator[User]:
    with images.shared_directory() as directory:
        found = User(account, directory)
        if found.start("--version").wait():
            pytest.skip("an ordinary user cannot read this checkout or its Python")
        yield found


def test_the_users_image_is_roots_image(user: User, tmp_path: Path) -> None:
    text = (ROOT / "recipes/busybox.def").read_text()
    process = user.start("-", "a.img")
    said = process.communicate(text)[1]
    assert process.returncode == 0, said
    argv = [*SINGBUILD, "-q", "-", str(tmp_path / "root.img")]
    subprocess.run(argv, input=text, text=True, check=True)
    assert (user.directory / "a.img").read_bytes() == (tmp_path / "root.img").read_bytes()


def test_what_needs_several_owners_is_refused_with_a_way_out(user: User) -> None:
    process = user.start("-", "a.img")
    said = process.communicate("Bootstrap: debootstrap\nOSVersion: bookworm\n")[1]
    assert process.returncode == 5
    assert "debootstrap needs root" in said
    assert "sudo" in said
    assert not user.left()


@pytest.mark.parametrize("last", ["true", "false"])
def test_nothing_is_left_that_the_user_cannot_delete(user: User, last: str) -> None:
    process = user.start("-", "a.img")
    said = process.communicate(HARD_TO_DELETE.format(last=last))[1]
    assert process.returncode == (7 if last == "false" else 0), said
    assert not user.left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_the_next_build_sweeps(user: User, number: signal.Signals) -> None:
    process = user.start("-", "a.img")
    assert process.stdin
    process.stdin.write(HARD_TO_DELETE.format(last="sleep 60"))
    process.stdin.close()
    assert process.stdout
    next(line for line in process.stdout if "+ sleep 60" in line)
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 128 + number)
    process.stdout.close()
    if number == signal.SIGKILL:
        time.sleep(0.5)  # the kernel is still ending its children
        second = user.start("-", "a.img")
        said = second.communicate("Bootstrap: busybox\n%post\n    false\n")[1]
        assert second.returncode == 7, said
    assert not user.left()


def test_anybody_may_plan(user: User) -> None:
    process = user.start("plan", "-")
    shown, said = process.communicate((ROOT / "recipes/debian.def").read_text())
    assert process.returncode == 0, said
    assert "%post at line 14" in shown
