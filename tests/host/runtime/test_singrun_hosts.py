"""Hosts that lack what a launch needs: each says what, and what would help."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bench.host import PATIENCE
from tests.bench.singrun_images import Bench

pytestmark = pytest.mark.root


def test_what_a_host_may_lack_is_named(bench: Bench) -> None:
    user = bench.people["user"]
    fuse = Path("/dev/fuse")
    mode = fuse.stat().st_mode & 0o777
    fuse.chmod(0o600)
    try:
        done = user.singrun("exec", "--mount-with", "fuse2fs", bench.image, "true")
    finally:
        fuse.chmod(mode)
    assert done.returncode == 255
    assert b"/dev/fuse" in done.stderr
    assert b"0666" in done.stderr
    done = user.singrun("exec", "--mount-with", "loop", bench.image, "true")
    assert (done.returncode, b"Only root" in done.stderr) == (255, True)


def test_a_host_without_fuse2fs(bench: Bench) -> None:
    """In a mount namespace of its own, so that the host keeps what it has."""
    user = bench.people["user"]
    words = user.words(user.launcher, "exec", "--mount-with", "fuse2fs", bench.image, "true")
    command = " ".join(map(str, words))
    script = "mount -t tmpfs none /mnt; touch /mnt/f; mount --bind /mnt/f $(command -v fuse2fs)"
    unshared = ["unshare", "-m", "sh", "-c", f"{script}; {command}"]
    done = subprocess.run(unshared, check=False, capture_output=True)
    assert done.returncode == 255
    assert b"Install the package fuse2fs" in done.stderr


def test_a_host_without_user_namespaces(bench: Bench) -> None:
    """In a user namespace of its own that holds all ids and may have no further ones inside."""
    user = bench.people["user"]
    command = " ".join(map(str, user.words(user.launcher, "exec", bench.image, "true")))
    limited = f"echo 0 >/proc/sys/user/max_user_namespaces; {command}"
    words = ["unshare", "-U", "sh", "-c", 'echo; read -r go; exec sh -c "$0"', limited]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdout
        child.stdout.readline()
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child.pid}/{name}").write_text("0 0 65536")
        output = child.communicate(b"go\n", timeout=20 * PATIENCE)[1]
    assert child.returncode == 255, output
    assert b"user.max_user_namespaces" in output
