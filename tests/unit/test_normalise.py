"""What differs between two honest runs is taken away, and nothing else."""

from __future__ import annotations

import importlib.util
import io
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.console.display import Console
from singbuild.tree.normalise import normalise
from singbuild.tree.rootfs import Rootfs
from tests.bench import docker_images

EPOCH = 1_000_000_000


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    return Rootfs(tmp_path, Console(io.StringIO()))


def test_rubbish_goes_and_the_rest_stays(rootfs: Rootfs) -> None:
    rootfs.write("/tmp/a/b", "x")
    rootfs.write("/var/lib/apt/lists/partial/x", "x")
    rootfs.write("/var/cache/ldconfig/aux-cache", "x")
    rootfs.write("/var/log/dpkg.log", "x", 0o640)
    rootfs.write("/etc/machine-id", "x")
    rootfs.write("/var/lib/dpkg/status", "kept")
    rootfs.write("/opt/tmp/kept", "kept")
    normalise(rootfs, EPOCH)
    files = {str(p.relative_to(rootfs.root)): p for p in rootfs.root.rglob("*") if p.is_file()}
    assert sorted(files) == [
        *("etc/machine-id", "opt/tmp/kept", "var/lib/dpkg/status", "var/log/dpkg.log"),
    ]
    assert files["etc/machine-id"].read_text() == files["var/log/dpkg.log"].read_text() == ""
    assert files["var/log/dpkg.log"].stat().st_mode & 0o777 == 0o640


def test_links_lead_nowhere_outside(
    rootfs: Rootfs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("x")
    (rootfs.root / "tmp").symlink_to(outside)
    (rootfs.root / "var").mkdir()
    (rootfs.root / "var" / "log").symlink_to(outside)
    rootfs.mkdir("/run")
    (rootfs.root / "run" / "link").symlink_to(outside)
    normalise(rootfs, EPOCH)
    assert (outside / "precious").read_text() == "x"
    assert not (rootfs.root / "run" / "link").is_symlink()


def test_no_password_was_changed_after_the_epoch(rootfs: Rootfs) -> None:
    rootfs.write("/etc/shadow", "root:*:20000:0:99999:7:::\nold:*:100:::\nodd\n", 0o640)
    normalise(rootfs, EPOCH)
    day = EPOCH // 86400
    assert rootfs.read("/etc/shadow") == b"root:*:%d:0:99999:7:::\nold:*:100:::\nodd\n" % day
    assert rootfs.path("/etc/shadow").stat().st_mode & 0o777 == 0o640


def test_bytecode_stays_valid_when_its_source_is_clamped(rootfs: Rootfs) -> None:
    rootfs.write("/opt/module.py", "print('hello')\n")
    source = rootfs.path("/opt/module.py")
    mode = py_compile.PycInvalidationMode.TIMESTAMP
    compiled = Path(str(py_compile.compile(str(source), invalidation_mode=mode)))
    normalise(rootfs, EPOCH)
    os.utime(source, (EPOCH, EPOCH))  # as the seal does
    before = compiled.read_bytes()
    subprocess.run([sys.executable, "-c", "import module"], cwd=source.parent, check=True)
    assert compiled.read_bytes() == before
    assert before[:4] == importlib.util.MAGIC_NUMBER


def test_files_that_only_look_like_bytecode(rootfs: Rootfs) -> None:
    rootfs.write("/opt/empty.pyc", b"")
    rootfs.write("/opt/short.pyc", b"abc")
    (rootfs.root / "opt" / "link.pyc").symlink_to("/etc/passwd")
    os.mkfifo(rootfs.root / "opt" / "fifo.pyc")
    normalise(rootfs, EPOCH)
    assert rootfs.read("/opt/short.pyc") == b"abc"


def test_what_was_copied_from_the_host_stays_but_its_bytecode_is_pinned(tmp_path: Path) -> None:
    rootfs = Rootfs(tmp_path, Console(io.StringIO()), epoch=EPOCH)
    rootfs.write("/tmp/made", "x")
    compiled = importlib.util.MAGIC_NUMBER + bytes(4) + b"\xff" * 4 + bytes(4)
    files = [("tmp/given/file", b"x"), ("opt/m.py", b""), ("opt/m.pyc", compiled)]
    rootfs.adopt(
        [
            docker_images.archive(
                docker_images.directory("tmp/given", mtime=EPOCH),
                *(docker_images.file(*each, mtime=EPOCH) for each in files),
            )
        ]
    )
    normalise(rootfs, EPOCH)
    assert (tmp_path / "tmp/given/file").stat().st_mtime == EPOCH
    assert not (tmp_path / "tmp/made").exists()
    assert rootfs.read("/opt/m.pyc")[8:12] == EPOCH.to_bytes(4, "little")
