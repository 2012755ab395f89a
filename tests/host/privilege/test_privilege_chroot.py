"""Root who may not mount, as in most containers: a plain chroot gives the file that others give."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.bench import container_engines
from tests.bench.builds import SINGBUILD, Build
from tests.bench.host import wait_until
from tests.bench.singrun_images import ROOT
from tests.host.privilege.test_privilege import OWNERS, lacking

pytestmark = pytest.mark.root

BUSYBOX = (ROOT / "recipes/busybox.def").read_text()
OWNED = OWNERS.format(last="touch /dev/mine")
SECTIONS = """\
Bootstrap: busybox
%setup
    touch "$SINGBUILD_ROOTFS/dev/own"
%post
    test ! -e /proc/self && test ! -e /dev/own && test ! -e /dev/urandom
    echo a >/dev/null
    cat /run/secrets/token >/dev/null
%test
    test -e /dev/null
"""
WORKING = SECTIONS.replace("! -e /dev/urandom", "3 = $(head -c 3 /dev/urandom | wc -c)")
LEAVING = """\
Bootstrap: busybox
%post
    setsid sleep 1000 & (sleep 1000 & sleep 1000) & (sleep 1000 &)
    sleep 1000
"""


WAYS = {
    "forced": (*SINGBUILD, "--privilege", "chroot"),
    "no mounts": lacking("sys_admin"),
    "no devices": lacking("sys_admin", "mknod"),
    "one id": ("unshare", "--user", "--map-root-user", *lacking("sys_admin")),
}


@pytest.fixture(scope="module")
def of_root(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What root builds of some recipes."""
    directory = tmp_path_factory.mktemp("root")
    return {text: built(text, directory, SINGBUILD)[0] for text in (BUSYBOX, OWNED)}


def built(text: str, directory: Path, way: Sequence[str]) -> tuple[bytes, str]:
    """What singbuild makes of a recipe, and says."""
    (directory / "a.def").write_text(text)
    argv = [*way, "--no-cache", "--force", "a.def", "a.img"]
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (directory / "a.img").read_bytes(), done.stdout + done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_the_image_is_roots_own(
    singbuild: Build, tmp_path: Path, way: str, of_root: dict[str, bytes]
) -> None:
    for text, image in of_root.items():
        result, output = built(text, tmp_path, WAYS[way])
        assert "privilege: chroot: " in output
        assert "nothing may be mounted here: /proc and /sys are empty" in output
        assert result == image
        assert not [*(tmp_path / "scratch").iterdir()]


def test_root_who_cannot_give_up_capabilities_is_told_so(tmp_path: Path) -> None:
    argv = [*lacking("sys_admin", "setpcap"), "--no-cache", "-", "a.img"]
    done = subprocess.run(argv, cwd=tmp_path, input=BUSYBOX, capture_output=True, text=True)
    assert done.returncode == 5
    assert "CAP_SETPCAP is missing" in done.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("way", "text"), [("no mounts", WORKING), ("no devices", SECTIONS)])
def test_sections_find_what_can_be_had(
    singbuild: Build, tmp_path: Path, way: str, text: str
) -> None:
    for _ in range(2):  # the second one from the stages of the first
        argv = [*WAYS[way], "--force", "--secret", "id=token,env=TOKEN", "-", "a.img"]
        env = os.environ | {"TOKEN": "a long secret value"}
        done = subprocess.run(
            argv, input=text, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        text += "    true\n"
    assert "cache: bootstrap: hit" in done.stdout
    argv = [*SINGBUILD, "export", "a.img"]
    archive = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True).stdout
    names = subprocess.check_output(["tar", "-t"], input=archive).decode().split()
    inside = [name.removeprefix("./") for name in names]
    assert "dev/own" in inside
    assert not [name for name in inside if name in ("dev/null", "run/secrets/token")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_scratch_is_left(
    singbuild: Build, tmp_path: Path, nothing_left: Callable[[], None], number: signal.Signals
) -> None:
    argv = [*WAYS["no mounts"], "--no-cache", "-", "a.img"]
    with subprocess.Popen(
        argv, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin
        process.stdin.write(LEAVING)
        process.stdin.close()
        # The shell, and all that it starts.
        wait_until(lambda: len(executing_in(tmp_path / "scratch")) >= 6, 60)
        scratch = next((tmp_path / "scratch").iterdir())
        process.send_signal(number)
        process.wait()
    wait_until(lambda: not executing_in(scratch))
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        wait_until(lambda: not (scratch / "rootfs").exists())
        built("Bootstrap: busybox\n", tmp_path, SINGBUILD)
        (tmp_path / "a.img").unlink()
    nothing_left()


def test_packages_of_rpm_are_roots_own(packages: str, singbuild: Build, tmp_path: Path) -> None:
    text = packages.replace("hello ", "")
    image = built(text, tmp_path, SINGBUILD)[0]
    for way in WAYS:
        same = built(text, tmp_path, WAYS[way])[0] == image
        assert same, way


def test_a_scriptlet_that_reads_proc_is_told_of(
    packages: str, singbuild: Build, tmp_path: Path
) -> None:
    output = built(packages, tmp_path, WAYS["no mounts"])[1]
    assert "nothing may be mounted here: /proc and /sys are empty" in output
    assert "%post(hello-7-1.x86_64) scriptlet failed" in output


def executing_in(scratch: Path) -> list[str]:
    """The processes whose root directory is in a scratch."""
    result = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "root").readlink().is_relative_to(scratch):
                result.append(process.name)
        except OSError:
            continue
    return result


@pytest.fixture(scope="module")
def container() -> Iterator[Callable[..., list[str]]]:
    with container_engines.container_of_this_host() as within:
        yield within


@pytest.mark.parametrize("environment", [(), ("--cap-add=mknod",)], ids=["podman", "docker"])
def test_a_container_without_privileges_builds_roots_image(
    container: Callable[..., list[str]],
    tmp_path: Path,
    environment: tuple[str, ...],
    of_root: dict[str, bytes],
) -> None:
    inside = container(*environment, f"--volume={tmp_path}:/out", "--workdir=/out")
    for text, image in of_root.items():
        (tmp_path / "a.def").write_text(text)
        argv = [*inside, *SINGBUILD, "--no-cache", "--force", "a.def", "a.img"]
        assert "privilege: chroot: root may not mount" in subprocess.check_output(argv, text=True)
        assert (tmp_path / "a.img").read_bytes() == image
    doctor = subprocess.check_output([*inside, *SINGBUILD, "doctor"], text=True)
    assert "You can build here, in the mode chroot:" in doctor


def test_only_roots_scratch_on_a_disk_needs_mke2fs(singbuild: Build, tmp_path: Path) -> None:
    (tmp_path / "a.def").write_text("Bootstrap: busybox\n")
    hide = f'mount --bind /dev/null {shutil.which("mke2fs")} && "$@"'
    memory = ("sh", "-c", 'mount -t tmpfs none scratch && "$@"', "sh", *SINGBUILD)
    for way, status in ((WAYS["no mounts"], 0), (memory, 0), (SINGBUILD, 5)):
        argv = ["unshare", "-m", "sh", "-c", hide, "sh", *way, "-F", "--no-cache", "a.def", "a.img"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status, (way, done.stderr)
    assert "this host lacks mke2fs\napt-get install e2fsprogs\n" in done.stderr
