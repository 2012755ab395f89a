"""One recipe, built in every privilege mode, is one file."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.builds import SINGBUILD, User
from tests.bench.host import shared_directory, wait_until

pytestmark = pytest.mark.root

OWNERS = """\
Bootstrap: busybox
%post
    mkdir -p /opt/a/b && touch /opt/a/file /opt/a/tool
    chown 1000:50 /opt/a/file && chown -h 33:33 /opt/a /opt/a/b
    ln -s file /opt/a/link && chown -h 7:8 /opt/a/link
    chown 65534:7 /opt/a/tool && chmod 6755 /opt/a/tool
    mkfifo /opt/a/fifo && ln /opt/a/file /opt/a/hard
    mknod -m 640 /opt/a/disk b 8 1 && mknod /opt/a/tty c 4 2 && chown 0:5 /opt/a/tty
    touch /opt/gone && chown 99:99 /opt/gone && rm /opt/gone && touch /opt/new
    touch /opt/moved && chown 12:13 /opt/moved && mv /opt/moved /opt/a/arrived
    {last}
"""
MODES = ("subuid", "one-id")
WITHOUT = (("sys_admin",), ("sys_admin", "mknod"))  # capabilities, for the mode chroot


def lacking(*names: str) -> tuple[str, ...]:
    """The words that execute singbuild without capabilities, as a container engine does."""
    missing = ",".join(f"-{name}" for name in names)
    return ("setpriv", f"--bounding-set={missing}", f"--inh-caps={missing}", *SINGBUILD)


def built(user: User, text: str, *words: str) -> bytes:
    """What a user builds of a recipe."""
    process = user.start("--no-cache", *words, "-", "a.img")
    output = process.communicate(text)[1]
    assert process.returncode == 0, output
    assert not user.left()
    return (user.directory / "a.img").read_bytes()


def by_root(text: str, target: Path, *words: str) -> bytes:
    argv = [*SINGBUILD, "-q", "--no-cache", *words, "-", str(target)]
    subprocess.run(argv, input=text, text=True, check=True)
    return target.read_bytes()


@pytest.fixture(scope="module")
def owners_of_root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return by_root(OWNERS.format(last="true"), tmp_path_factory.mktemp("root") / "root.img")


@pytest.mark.parametrize("mode", MODES)
def test_owners_and_devices_are_roots_own(user: User, mode: str, owners_of_root: bytes) -> None:
    assert built(user, OWNERS.format(last="true"), "--privilege", mode) == owners_of_root


REWRITTEN = """\
Bootstrap: busybox
%post
    echo one > /secret && chown 0:42 /secret && chmod 640 /secret
    sed -i s/one/two/ /secret                       # as useradd does: made anew, owner copied
    echo one > /mine && chown 0:42 /mine
    echo two > /new && mv /new /mine                # root's: nobody gave it an owner
    echo one > /hers && chown 5:6 /hers
    echo two > /new && chown 7:8 /new && mv /new /hers
"""


def test_a_file_written_anew_keeps_the_owner_that_programs_cannot_see(
    user: User, tmp_path: Path
) -> None:
    target = by_root(REWRITTEN, tmp_path / "root.img")
    for mode in MODES:
        assert built(user, REWRITTEN, "-F", "--privilege", mode) == target, mode


SHARED = """\
Bootstrap: busybox
%post
    mkdir -p /shared/below /other && chown 0:50 /shared /shared/below && chmod 2775 /shared
    touch /shared/given && chown 0:50 /shared/given
    touch /other/file {more}
"""


MADE_THERE = "/shared/one /shared/two; mkdir /shared/three; touch /shared/three/four"


def test_a_group_that_only_the_directory_gives_is_told_of(user: User, tmp_path: Path) -> None:
    argv = ["--no-cache", "--privilege", "one-id", "-", "a.img"]
    output = user.start(*argv).communicate(SHARED.format(more=MADE_THERE))[1]
    assert "/shared/one and 3 more may lack the group of the set-group-id directory" in output
    (user.directory / "a.img").unlink()
    process = user.start(*argv)
    output = process.communicate(SHARED.format(more=""))[1]
    assert process.returncode == 0, output
    assert "group" not in output
    assert (user.directory / "a.img").read_bytes() == by_root(
        SHARED.format(more=""), tmp_path / "root.img"
    )


def test_a_kept_stage_knows_which_groups_were_given(user: User) -> None:
    text = SHARED.format(more="/shared/own; chown 0:0 /shared/own")
    for name, more in (("a.img", ""), ("b.img", "%runscript\n    true\n")):
        process = user.start("--privilege", "one-id", "-", name)
        out, output = process.communicate(text + more)
        assert process.returncode == 0, output
        assert "may lack the group" not in output
    assert "cache: post: hit" in out


def test_file_capabilities_are_roots_own(user: User, tmp_path: Path) -> None:
    text = """Bootstrap: busybox
%setup
    cp -L /bin/true "$SINGBUILD_ROOTFS/tool"
    /usr/sbin/setcap cap_net_raw+ep "$SINGBUILD_ROOTFS/tool"
"""
    target = by_root(text, tmp_path / "root.img")
    for mode in MODES:
        assert built(user, text, "-F", "--privilege", mode) == target, mode


@pytest.mark.parametrize("mode", MODES)
def test_who_becomes_another_user_goes_on(user: User, mode: str) -> None:
    text = """Bootstrap: busybox
%post
    echo root:x:0:0:root:/root:/bin/sh >/etc/passwd
    echo ada:x:1000:1000:Ada:/:/bin/sh >>/etc/passwd
    echo ada:x:1000: >/etc/group
    su ada -c 'touch /tmp/mine'
    test -e /tmp/mine
"""
    built(user, text, "--privilege", mode)


def test_what_may_not_be_made_fails_as_it_would_for_root(user: User) -> None:
    text = """Bootstrap: busybox
%post
    touch /there
    mknod /there c 1 3 2>&1 | grep 'File exists'
    chown 1:1 /nowhere 2>&1 | grep 'No such file'
    mknod /nowhere/null c 1 3 2>&1 | grep 'No such file'
"""
    built(user, text, "--privilege", "one-id")


@pytest.mark.network
@pytest.mark.parametrize("way", [*MODES, *WITHOUT], ids=str)
def test_a_small_debian_is_roots_own(
    user: User, mini_debian: str, debian_of_root: bytes, tmp_path: Path, way: str | tuple[str, ...]
) -> None:
    text = f"Bootstrap: debootstrap\n{mini_debian}\n"
    if isinstance(way, str):
        assert built(user, text, "--privilege", way) == debian_of_root
        return
    words = [*lacking(*way), "-q", "--no-cache", "-", str(tmp_path / "chroot.img")]
    subprocess.run(words, input=text, text=True, check=True)
    assert (tmp_path / "chroot.img").read_bytes() == debian_of_root


@pytest.fixture(scope="module")
def debian_of_root(mini_debian: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    text = f"Bootstrap: debootstrap\n{mini_debian}\n"
    return by_root(text, tmp_path_factory.mktemp("root") / "debian.img")


def test_packages_of_rpm_are_roots_own(user: User, packages: str, tmp_path: Path) -> None:
    target = by_root(packages, tmp_path / "root.img")
    for mode in MODES:
        assert built(user, packages, "-F", "--privilege", mode) == target, mode


def test_a_users_stages_are_kept(user: User) -> None:
    first = user.start("-", "a.img")
    output = first.communicate(OWNERS.format(last="true"))[1]
    assert first.returncode == 0, output
    second = user.start("-", "b.img")
    out, output = second.communicate(OWNERS.format(last="true") + "    touch /more\n")
    assert second.returncode == 0, output
    assert "cache: bootstrap: hit" in out


def test_the_choice_is_told_with_its_reason(user: User) -> None:
    out, output = user.start("-", "a.img").communicate("Bootstrap: busybox\n")
    assert "privilege: subuid: you are not root, and have subordinate ids" in out, output


def test_a_forced_mode_that_does_not_work_says_what_is_missing(user: User) -> None:
    process = user.start("--privilege", "root", "-", "a.img")
    output = process.communicate("Bootstrap: busybox\n")[1]
    assert process.returncode == 5
    assert "the privilege mode root does not work here" in output
    assert "you are not root" in output
    assert "sudo" in output


def test_the_doctor_knows_what_works_here(user: User) -> None:
    process = user.start("doctor", "--json")
    result = json.loads(process.communicate()[0])
    assert process.returncode == 0
    assert result["chosen"] == "subuid"
    works = {mode: about["works"] for mode, about in result["modes"].items()}
    assert works == {"root": False, "subuid": True, "one-id": True, "chroot": False}
    assert result["modes"]["root"]["missing"] == [
        {"what": "you are not root", "remedy": "Run it with sudo."}
    ]


def test_the_doctor_says_what_is_missing() -> None:
    with shared_directory() as directory:
        out, output = User("nobody", directory).start("doctor").communicate()
    assert "no       mode subuid (not needed)\n" in out, output
    assert "/etc/subuid lends you no 65536 ids" in out
    assert "Ask for this line in /etc/subuid: nobody:" in out
    assert "You can build here, in the mode one-id:" in out


def test_whoever_has_no_subordinate_ids_is_told_the_line_to_ask_for() -> None:
    with shared_directory() as directory:
        nobody = User("nobody", directory)
        process = nobody.start("--privilege", "subuid", "-", "a.img")
        output = process.communicate("Bootstrap: busybox\n")[1]
        assert process.returncode == 5
        assert "/etc/subuid lends you no 65536 ids" in output
        assert "Ask for this line in /etc/subgid: nobody:" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_that_belongs_to_other_ids(user: User, number: signal.Signals) -> None:
    process = user.start("--privilege", "subuid", "-", "a.img")
    assert process.stdin
    process.stdin.write(OWNERS.format(last="sleep 60"))
    process.stdin.close()
    assert process.stdout
    next(line for line in process.stdout if "+ sleep 60" in line)
    scratch = next(user.directory.glob("singbuild-scratch-*"))
    tool = scratch / "rootfs/opt/a/tool"
    assert tool.stat().st_uid >= 65536
    assert tool.stat().st_mode & 0o6000
    assert scratch.stat().st_mode & 0o777 == 0o700  # nobody else comes to the setuid file
    process.send_signal(number)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not tool.exists())
    if number == signal.SIGKILL:
        subprocess.run(["rm", "-rf", scratch], user=user.uid, check=True)
    assert not [path for path in user.left() if path.startswith("singbuild-")]


def test_the_next_build_sweeps_what_belongs_to_other_ids(user: User) -> None:
    scratch = user.directory / "singbuild-scratch-dead"
    scratch.mkdir(mode=0o700)
    (scratch / "lock").touch()
    (scratch / "rootfs").mkdir()
    (scratch / "rootfs/file").touch()
    first = images.subordinate_ids(user.name, "uid")[0].start
    for path in (scratch, scratch / "lock"):
        os.chown(path, user.uid, user.gid)
    for path in (scratch / "rootfs", scratch / "rootfs/file"):
        os.chown(path, first + 32, first + 32)
    built(user, "Bootstrap: busybox\n")
    assert not scratch.exists()


def test_a_files_mode_outlives_what_is_written_without_fsetid(tmp_path: Path) -> None:
    """An ordinary user has no CAP_FSETID either: each write takes set-user-ID off. chmod(2)."""
    script = (
        "import sys; from pathlib import Path\n"
        "from singbuild.console.display import Console\n"
        "from singbuild.tree.rootfs import Rootfs\n"
        "Rootfs(Path(sys.argv[1]), Console(sys.stdout)).write('/su', 'x', 0o4755)\n"
    )
    without = lacking("fsetid")[: -len(SINGBUILD)]
    subprocess.run([*without, SINGBUILD[0], "-c", script, tmp_path], check=True)
    assert stat.S_IMODE((tmp_path / "su").stat().st_mode) == 0o4755


def test_a_tree_of_others_is_kept_from_host_programs_that_cannot_be_confined(
    tmp_path: Path,
) -> None:
    """As in a plain container, where nothing may be mounted around them."""
    script = (
        "import sys; from pathlib import Path\n"
        "from singbuild.console.display import Console\n"
        "from singbuild.tree.rootfs import Rootfs\n"
        "rootfs = Rootfs(Path(sys.argv[1]), Console(sys.stdout))\n"
        "rootfs.host(['touch', 'of-an-empty-image'], directory=rootfs.root)\n"
        "rootfs.is_untrusted = True\n"
        "rootfs.host(['touch', 'of-a-strangers'], directory=rootfs.root)\n"
    )
    without = lacking("sys_admin")[: -len(SINGBUILD)]
    argv = [*without, SINGBUILD[0], "-c", script, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert "touch cannot be kept from following links of the image" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["of-an-empty-image"]
