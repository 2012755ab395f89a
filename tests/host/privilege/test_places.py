"""Scratch, target and cache on file systems that cannot do what a user's build needs of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, User
from tests.host.privilege.test_privilege import MODES, OWNERS, by_root

pytestmark = [pytest.mark.root, pytest.mark.root_itself("it mounts")]

PLAIN = "Bootstrap: busybox\n"
FILLING = f"{PLAIN}%post\n    dd if=/dev/zero of=/big bs=1M\n"
TINY, READ_ONLY = "-t tmpfs -o size=1m,mode=1777", "-t tmpfs -o ro,mode=1777"
SMALL = TINY.replace("1m", "5m")  # for downloads, and not for stages
Done = subprocess.CompletedProcess[str]


def building(user: User, variable: str, place: Path, prepare: str, text: str, mode: str) -> Done:
    """Build as a user with a directory that something was mounted on by shell text.

    variable: what names the directory, "" for the target's. All in a mount namespace; $place,
    $user and $as_user can be used.
    """
    place.mkdir(exist_ok=True)
    os.chown(place, user.uid, user.gid)
    argv = [*SINGBUILD, "--privilege", mode, "-", "a.img" if variable else f"{place}/a.img"]
    script = f'{prepare} && {{ $as_user env "$@"; status=$?; {LOOK}; exit $status; }}'
    become = f"setpriv --reuid={user.uid} --regid={user.gid} --init-groups"
    words = [f"place={place}", f"as_user={become}", f"user={user.uid}"]
    env = user.env | ({variable: str(place)} if variable else {})
    return subprocess.run(
        ["unshare", "-m", "env", *words, "sh", "-c", script, "sh", *argv],
        input=text,
        cwd=user.directory,
        env=env,
        capture_output=True,
        text=True,
    )


# What lies in the place afterwards, as the last line: FUSE shows it to its user alone, and ends
# with its mount.
LOOK = 'echo; echo left: $($as_user ls -A "$place"); umount "$place"'


def refused(done: Done, status: int, *output: str) -> None:
    """Check that a build ended before it began, saying that."""
    assert done.returncode == status, done.stderr
    for text in output:
        assert text in done.stderr
    assert "bootstrap" not in done.stdout
    assert done.stdout.endswith("left:\n")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "output"),
    [
        (TINY, " (tmpfs) has 1 MiB left, the build needs at least 16 MiB"),
        (READ_ONLY, " (tmpfs) cannot be written\nRead-only file system\n"),
        ("-t tmpfs -o noexec,mode=1777", " (tmpfs) is mounted noexec"),
    ],
    ids=["tiny", "read-only", "noexec"],
)
def test_a_scratch_that_will_not_do(mode: str, options: str, output: str, user: User) -> None:
    place = user.directory / "place"
    mount = f'mount {options} none "$place"'
    done = building(user, "SINGBUILD_TMPDIR", place, mount, PLAIN, mode)
    refused(done, 5, f"{place}{output}", "Set SINGBUILD_TMPDIR to a directory")


@pytest.mark.parametrize("mode", MODES)
def test_a_scratch_without_devices_and_setuid_gives_roots_image(
    mode: str, user: User, tmp_path: Path
) -> None:
    text = OWNERS.format(last="true")
    place = user.directory / "place"
    mount = 'mount -t tmpfs -o nodev,nosuid,mode=1777 none "$place"'
    done = building(user, "SINGBUILD_TMPDIR", place, mount, text, mode)
    assert (done.returncode, done.stdout[-6:]) == (0, "left:\n"), done.stderr
    image = (user.directory / "a.img").read_bytes()
    assert image == by_root(text, tmp_path / "root.img")


@pytest.mark.parametrize("mode", MODES)
def test_a_scratch_that_fills_up(mode: str, user: User) -> None:
    mount = 'mount -t tmpfs -o size=64m,mode=1777 none "$place"'
    place = user.directory / "place"
    done = building(user, "SINGBUILD_TMPDIR", place, mount, FILLING, mode)
    assert (done.returncode, done.stdout[-6:]) == (5, "left:\n"), done.stderr
    assert f"the disk that holds the scratch, {place}, is full" in done.stderr
    assert not (user.directory / "a.img").exists()


# A new file: the process of an earlier mount may still write to its own.
FUSE = """\
rm -f disk && truncate -s 64M disk &&
mke2fs -q -t ext4 -E root_owner=$user:$user disk && chown $user disk &&
$as_user fuse2fs disk "$place" && $as_user rmdir "$place/lost+found\"\
"""


def test_a_file_system_that_gives_no_file_to_others(user: User, tmp_path: Path) -> None:
    text = OWNERS.format(last="true")
    place = user.directory / "place"
    done = building(user, "SINGBUILD_TMPDIR", place, FUSE, text, "subuid")
    output = (f"{place} (fuse", ") cannot hold files of other owners", "--privilege one-id")
    refused(done, 5, *output, "Set SINGBUILD_TMPDIR to a directory")
    done = building(user, "SINGBUILD_TMPDIR", place, FUSE, text, "one-id")
    assert (done.returncode, done.stdout[-6:]) == (0, "left:\n"), done.stderr
    image = (user.directory / "a.img").read_bytes()
    assert image == by_root(text, tmp_path / "root.img")


@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_will_not_do(mode: str, user: User) -> None:
    place = user.directory / "place"
    done = building(user, "", place, f'mount {READ_ONLY} none "$place"', PLAIN, mode)
    refused(done, 8, f"{place} (tmpfs): Read-only file system", "Name a target in a directory")
    done = building(user, "", place, f'mount {TINY} none "$place"', PLAIN, mode)
    refused(done, 5, f"{place} (tmpfs) has 1 MiB left", "name a target elsewhere")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "output"),
    [
        (SMALL, " (tmpfs) has 5 MiB left, this build keeps 16 MiB or more there"),
        (READ_ONLY, " (tmpfs) cannot be written: Read-only file system; nothing is kept there"),
    ],
    ids=["tiny", "read-only"],
)
def test_a_cache_that_will_not_do_is_told_at_once_and_done_without(
    mode: str, options: str, output: str, user: User
) -> None:
    place = user.directory / "place"
    options = options.replace("mode=1777", "mode=0700,uid=$user,gid=$user")
    mount = f'mount {options} none "$place"'
    done = building(user, "SINGBUILD_CACHEDIR", place, mount, PLAIN, mode)
    assert done.returncode == 0, done.stderr
    assert f"{place}{output}\nSINGBUILD_CACHEDIR names another" in done.stderr
    assert done.stderr.count("is not cached") == 1  # however many steps there are
    assert (user.directory / "a.img").exists()
