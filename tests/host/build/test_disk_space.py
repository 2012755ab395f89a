"""Builds on disks with too little room, and what a kill leaves on them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.bench.builds import SINGBUILD, Build, Builder, killed_when
from tests.bench.host import wait_until

pytestmark = pytest.mark.root


@pytest.mark.root_itself("it mounts the disk; for users: test_places.py")
@pytest.mark.parametrize(
    "mount",
    [
        "mount -t tmpfs -o size=64m small",
        "truncate -s 64M disk && mke2fs -q -t ext4 -m 0 disk && mount -o loop disk",
    ],
    ids=["memory", "disk"],
)
def test_a_disk_that_fills_up(
    mount: str,
    recipe: Callable[[str], Path],
    singbuild: Build,
    tmp_path: Path,
    nothing_left: Callable[[], None],
) -> None:
    path = recipe("Bootstrap: busybox\n%post\n    dd if=/dev/zero of=/big bs=1M\n")
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f'{mount} "{small}" && export SINGBUILD_TMPDIR="{small}" && "$@"; status=$?; '
        f'rm -rf "{small}/lost+found"; find "{small}" -mindepth 1; exit $status'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *SINGBUILD, path, tmp_path / "a.img"],
        capture_output=True,
        text=True,
        env=os.environ,
        cwd=tmp_path,
    )
    assert done.returncode == 5, done.stderr
    assert "full" in done.stderr
    assert "singbuild-" not in done.stdout.splitlines()[-1]
    nothing_left()


@pytest.mark.root_itself("only root's scratch is a file system of its own")
def test_a_scratch_in_memory_is_a_tmpfs_and_gives_the_same_image(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    script = "chmod 4755 /etc/passwd; ln /etc/passwd /etc/two; mkfifo /etc/fifo; mknod /etc/d c 1 3"
    path = recipe(f"Bootstrap: busybox\n%post\n    {script}\n    echo on $(stat -f -c %T /)\n")
    on_disk = singbuild("--no-cache", path, "a.img")
    memory = tmp_path / "memory"
    memory.mkdir()
    mount = f'mount -t tmpfs -o nodev,nosuid,noexec none "{memory}"'
    build = f'{mount} && SINGBUILD_TMPDIR="{memory}" "$@" && ls -A "{memory}"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", build, "sh", *SINGBUILD, "--no-cache", path, "b.img"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernel = [int(number) for number in os.uname().release.split(".")[:2]]
    if kernel >= [6, 6]:
        assert "on tmpfs" in done.stdout
    assert "MiB" in done.stdout.splitlines()[-1]  # ls showed nothing
    assert on_disk.returncode == 0
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


@pytest.mark.root_itself("it mounts the disk; for users: test_places.py")
def test_too_little_space_is_refused_before_anything_is_written(
    recipe: Callable[[str], Path],
    tmp_path: Path,
    nothing_left: Callable[[], None],
    singbuild: Build,
) -> None:
    path = recipe("Bootstrap: busybox\n")
    small = tmp_path / "small"
    small.mkdir()
    script = f'mount -t tmpfs -o size=1m small "{small}" && SINGBUILD_TMPDIR="{small}" "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *SINGBUILD, path, tmp_path / "a.img"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 5
    assert "MiB left" in done.stderr
    nothing_left()


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.9])
def test_sigkill_while_sealing_keeps_the_old_target_whole(
    share: float, recipe: Callable[[str], Path], singbuild: Build, builder: Builder, tmp_path: Path
) -> None:
    target = tmp_path / "a.img"
    assert singbuild(recipe("Bootstrap: busybox\n"), target).returncode == 0
    before = target.read_bytes()
    large = tmp_path / "large.def"
    files = "for n in 0 1 2 3 4 5 6 7 8 9; do head -c 4M /dev/urandom >$SINGBUILD_ROOTFS/$n; done"
    large.write_text(f"Bootstrap: busybox\n%setup\n    {files}\n")
    words: list[str | Path] = ["--no-cache", "--force", large, target]

    def is_sealed_so_far(event: Mapping[str, Any]) -> bool:
        sealing = event["event"] == "progress" and event["label"] == "bytes"
        return sealing and bool(event["done"] >= share * event["total"])

    status = killed_when(is_sealed_so_far, signal.SIGKILL, words, tmp_path, builder)
    assert (status, target.read_bytes() == before) == (-signal.SIGKILL, True)
    wait_until(lambda: singbuild("--force", large, target).returncode == 0, 60)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)
