"""An ordinary user builds what needs only one owner, and gets the file that root gets."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.backends import scaffold
from tests.bench.builds import SINGBUILD, User
from tests.bench.host import shared_directory, wait_until
from tests.bench.singrun_images import ROOT
from tests.host.privilege.test_privilege import MODES

pytestmark = pytest.mark.root

HARD_TO_DELETE = """\
Bootstrap: busybox
%post
    mkdir -p /opt/closed/deep && touch /opt/closed/deep/file
    chmod 0 /opt/closed/deep && chmod 0500 /opt/closed
    cp /bin/busybox /opt/elevated && chown 1:1 /opt/elevated && chmod 6755 /opt/elevated
    {last}
"""


def test_the_users_image_is_roots_image(user: User, tmp_path: Path) -> None:
    text = (ROOT / "recipes/busybox.def").read_text()
    process = user.start("-", "a.img")
    output = process.communicate(text)[1]
    assert process.returncode == 0, output
    argv = [*SINGBUILD, "-q", "-", str(tmp_path / "root.img")]
    subprocess.run(argv, input=text, text=True, check=True)
    assert (user.directory / "a.img").read_bytes() == (tmp_path / "root.img").read_bytes()


def test_a_user_has_a_cache_and_it_changes_no_byte(user: User, tmp_path: Path) -> None:
    text = HARD_TO_DELETE.format(last="true")
    images = []
    for name, more in (("a.img", ""), ("b.img", ""), ("c.img", "%environment\n    A=1\n")):
        (user.directory / "recipe.def").write_text(text + more)
        process = user.start("recipe.def", name)
        out, output = process.communicate()
        assert process.returncode == 0, output
        images.append((user.directory / name).read_bytes())
        assert ("cache: image: hit" in out) == (name == "b.img")
        assert ("cache: post: hit" in out) == (name == "c.img")
    assert images[0] == images[1]
    recipe = tmp_path / "recipe.def"
    recipe.write_text(text + "%environment\n    A=1\n")
    subprocess.run([*SINGBUILD, "-q", "--no-cache", recipe, tmp_path / "c.img"], check=True)
    assert images[2] == (tmp_path / "c.img").read_bytes()
    assert not user.left()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("last", ["true", "false"])
def test_nothing_is_left_that_the_user_cannot_delete(user: User, last: str, mode: str) -> None:
    process = user.start("--privilege", mode, "-", "a.img")
    output = process.communicate(HARD_TO_DELETE.format(last=last))[1]
    assert process.returncode == (7 if last == "false" else 0), output
    assert not user.left()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_the_next_build_sweeps(
    user: User, number: signal.Signals, mode: str
) -> None:
    process = user.start("--privilege", mode, "-", "a.img")
    assert process.stdin
    process.stdin.write(HARD_TO_DELETE.format(last="sleep 60"))
    process.stdin.close()
    assert process.stdout
    next(line for line in process.stdout if "+ sleep 60" in line)
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 128 + number)
    process.stdout.close()
    if number == signal.SIGKILL:
        wait_until(lambda: sweeps(user))  # the kernel may still be ending its children
    assert not user.left()


def sweeps(user: User) -> bool:
    """Whether a build that fails leaves nothing of itself and of others."""
    second = user.start("-", "a.img")
    output = second.communicate("Bootstrap: busybox\n%post\n    false\n")[1]
    assert second.returncode == 7, output
    return not user.left()


SETUID = """\
Bootstrap: busybox
%post
    cp /bin/busybox /elevated && chmod 4755 /elevated
    sleep 60
"""


@pytest.mark.parametrize("mode", ["root", "chroot", *MODES])
def test_a_setuid_file_of_a_build_is_seen_by_nobody_else(mode: str, account: str) -> None:
    with shared_directory() as directory:
        directory.chmod(0o755)
        builder = User(account if mode in MODES else "root", directory)
        process = builder.start("--privilege", mode, "-", "a.img")
        assert process.stdin
        process.stdin.write(SETUID)
        process.stdin.close()
        assert process.stdout
        next(line for line in process.stdout if "+ sleep 60" in line)
        find = ["find", str(directory), "-perm", "/6000", "-o", "-name", "rootfs"]
        search = subprocess.run(find, user=65534, group=65534, extra_groups=[], capture_output=True)
        process.terminate()
        process.stdout.close()
        assert process.wait() == 143
        assert search.stdout == b""
        assert b"singbuild-scratch-" in search.stderr  # it is there, and closed
        assert not builder.left()


def test_anybody_may_plan(user: User) -> None:
    process = user.start("plan", "-")
    output, errors = process.communicate((ROOT / "recipes/debian.def").read_text())
    assert process.returncode == 0, errors
    assert "%post at line 14" in output


def test_a_home_that_is_closed_to_its_user_slows_a_build_and_stops_none(user: User) -> None:
    """As sudo leaves it when root writes there: a cache, logs and settings that are root's."""
    home = user.directory / "home"
    for name in (".cache", ".local", ".config", ".docker"):
        (home / name).mkdir(parents=True, mode=0o700)
    places = dict.fromkeys(("SINGBUILD_TMPDIR", "TMPDIR"), str(home.parent))  # logs, too
    user.env = {"PATH": user.env["PATH"], "HOME": str(home)} | places
    for mode in MODES:
        process = user.start("--force", "--privilege", mode, "-", "a.img")
        output = process.communicate("Bootstrap: busybox\n%post\n    true\n")[1]
        assert process.returncode == 0, output
        assert "cannot be written" in output
    process = user.start("doctor")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert f"{home}/.local cannot be written: Permission denied" in output
    process = user.start("pull", "--force", "docker-daemon:none", "b.img")
    assert "exists" in process.communicate()[1]


def test_the_suite_of_a_backend_for_root_is_for_who_has_subordinate_ids(user: User) -> None:
    project = scaffold.new_backend("for-root", user.directory / "project")
    module = project / "singbuild_for_root.py"
    module.write_text(module.read_text().replace("Needs(\n", "Needs(\n        root=True,\n", 1))
    about = project / "for_root-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: for-root\nVersion: 1\n")
    entry = "[singbuild.bootstrap]\nfor-root = singbuild_for_root\n"
    (about / "entry_points.txt").write_text(entry)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = user.env | {"PYTHONPATH": str(project), "TMPDIR": str(user.directory)}
    done = subprocess.run(
        [*words, "-k", "lock or alike", str(project)],
        **user.become(),
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
