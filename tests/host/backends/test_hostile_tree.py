"""A backend works on somebody else's image: no link in it leads anybody out of the tree."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.builds import Build
from tests.bench.host import shared_directory

pytestmark = pytest.mark.root

# Where dnf, rpm, debootstrap, and our own backends write, remove or read by name.
LINKS = (
    *("var/cache/dnf", "var/lib/dnf", "var/log", "var/lib/rpm", "etc/yum.repos.d", "etc/dnf"),
    *("usr/lib/sysimage", "usr/share", "var/cache/apt", "debootstrap", "tmp", "var/tmp"),
)


def hostile(image: Path, victim: Path, links: tuple[str, ...]) -> None:
    """Make an image of a tree whose directories are links to a directory of the host."""
    tree = image.with_suffix(".tree")
    (tree / "home").mkdir(parents=True)
    for link in links:
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        (tree / link).symlink_to(victim)
    subprocess.run(["mke2fs", "-q", "-t", "ext3", "-d", tree, image, "64M"], check=True)


def state(directory: Path) -> str:
    """All that is in a directory: names, modes, times, content."""
    total = hashlib.sha256()
    for path in sorted([directory, *directory.rglob("*")]):
        about = path.lstat()
        total.update(f"{path} {about.st_mode} {about.st_uid} {about.st_mtime_ns}\n".encode())
        if path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    directory = tmp_path / "victim"
    (directory / "below").mkdir(parents=True)
    for name in ("a", "dnf.log", "below/b"):
        (directory / name).write_text("mine")
        os.utime(directory / name, (1, 1))
    return directory


@pytest.mark.parametrize("links", [*((link,) for link in LINKS), ("singbuild-yum",)], ids=str)
def test_dnf_leaves_the_host_alone(
    links: tuple[str, ...], packages: str, singbuild: Build, tmp_path: Path, victim: Path
) -> None:
    hostile(tmp_path / "a.img", victim, links)
    before = state(victim)
    (tmp_path / "a.def").write_text(packages)
    done = singbuild("bootstrap", "a.img", "a.def")
    assert state(victim) == before, done.stdout + done.stderr
    assert done.returncode in (0, 5, 6, 8), done.stderr  # some trees hold no packages: that is told
    assert "bug in singbuild" not in done.stderr


def test_a_name_of_the_build_s_own_is_refused(
    packages: str, singbuild: Build, tmp_path: Path, victim: Path
) -> None:
    hostile(tmp_path / "a.img", victim, ("singbuild-yum",))
    (tmp_path / "a.def").write_text(packages)
    done = singbuild("bootstrap", "a.img", "a.def")
    assert done.returncode == 8
    assert "the image has a /singbuild-yum" in done.stderr


@pytest.mark.network
@pytest.mark.parametrize(
    "links", [("var/cache/apt",), ("debootstrap", "singbuild-archive"), ("var/log", "etc")], ids=str
)
def test_debootstrap_leaves_the_host_alone(
    links: tuple[str, ...], singbuild: Build, tmp_path: Path, victim: Path
) -> None:
    hostile(tmp_path / "a.img", victim, links)
    before = state(victim)
    (tmp_path / "a.def").write_text("Bootstrap: debootstrap\nOSVersion: bookworm\n")
    done = singbuild("bootstrap", "a.img", "a.def")
    assert state(victim) == before, done.stdout + done.stderr
    assert "bug in singbuild" not in done.stderr


def test_a_program_of_the_host_writes_nothing_but_the_tree(tmp_path: Path, victim: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom singbuild.testing.engine import Recorder\n"
        "from singbuild.tree.rootfs import Rootfs\n"
        "root, victim = map(Path, sys.argv[1:])\n"
        "rootfs = Rootfs(root, Recorder())\n"
        "rootfs.host(['sh', '-c', f'echo x > {root}/new'])\n"
        "done = rootfs.host(['sh', '-c', f'echo x > {root}/out/new'], check=False)\n"
        "assert done.status, done\n"
        "done = rootfs.host(['rm', '-rf', f'{root}/out/below'], check=False)\n"
        "assert done.status, done\n"
    )
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(victim)
    before = state(victim)
    argv = ["unshare", "--mount", sys.executable, "-c", code, str(root), str(victim)]
    subprocess.run(argv, check=True)
    assert (root / "new").exists()
    assert state(victim) == before


# What a program that chooses packages would do for who has it in hand; a line for each way out.
ATTACK = """\
echo x > where/new || echo OUT: where it works
echo x > {victim}/new && echo OUT: a file
mount -o remount,bind,rw / && echo x > {victim}/new && echo OUT: mounts
kill -0 {pid} && echo OUT: a process
test "$(grep -c : /proc/net/dev)" = 1 || echo OUT: the network
"""
SOLVE = """\
import sys
from pathlib import Path
from singbuild_yum import execution
from singbuild_yum.layout import Layout
status, lines = execution.solve(["sh", "-c", sys.argv[2]], Layout(Path(sys.argv[1])))
print(*lines, sep="\\n")
"""


@pytest.mark.parametrize("uid", [0, 65534])
def test_a_choice_of_packages_reaches_nothing(uid: int) -> None:
    """Not even as whoever builds: what it reads are a mirror's words, and nobody signs them."""
    with shared_directory() as place:
        for name in ("victim", "work/where"):
            (place / name).mkdir(parents=True)
            os.chown(place / name, uid, uid)
        attack = ATTACK.format(victim=place / "victim", pid=os.getpid())
        argv = [sys.executable, "-c", SOLVE, str(place / "work"), attack]
        done = subprocess.run(argv, user=uid, group=uid, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "OUT" not in done.stdout
        assert (place / "work/where/new").exists()
        assert not any((place / "victim").iterdir())
