"""Trees that are deeper than the interpreter's stack, and hosts that lack what a tree needs."""

from __future__ import annotations

import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from singbuild.testing.engine import Recorder
from singbuild.tree import layers, permissions, scratch, sections
from singbuild.tree.rootfs import Rootfs
from singrun.mounts import loop


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    root = tmp_path / "root"
    root.mkdir()
    return Rootfs(root, Recorder())


def innermost(place: Path) -> int:
    """Make a directory of 1,500 levels; return an open descriptor of the last."""
    place.mkdir()
    here = os.open(place, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    return here


def test_permissions_are_set_however_deep(rootfs: Rootfs) -> None:
    """os.fwalk() has a directory open for each level, and in Python 3.11 calls itself."""
    here = innermost(rootfs.root / "d")
    os.close(os.open("program", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.chmod("program", 0o111, dir_fd=here)
    permissions.fix(rootfs, wants=True)
    mode = os.stat("program", dir_fd=here).st_mode
    os.close(here)
    rootfs.remove_tree("/d")
    assert stat.S_IMODE(mode) == 0o711


def test_what_was_written_over_layers_goes_however_deep(rootfs: Rootfs) -> None:
    os.close(innermost(rootfs.root / "upper"))
    layers.Layers(rootfs.root)._clear()
    assert rootfs.names("/") == []


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_stays_open_where_there_is_no_loop_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_ATTEMPTS", 0)
    (tmp_path / "image").touch()
    before = open_files()
    with pytest.raises(OSError), scratch.mounted(tmp_path / "image", tmp_path / "root"):
        pass
    assert open_files() == before


def test_nothing_stays_open_where_a_file_system_cannot_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    (tmp_path / "file").write_text("text")
    before = open_files()
    layers._read([tmp_path], threading.Event())
    assert open_files() == before


def test_an_image_has_its_own_names_back_where_the_disk_is_full(rootfs: Rootfs) -> None:
    rootfs.write("/etc/hosts", "own")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with pytest.raises(OSError, match="File too large"):  # noqa: SIM117
            with sections._lent(rootfs, "/etc/hosts", b"the host's"):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (rootfs.root / "etc/hosts").read_text() == "own"
    assert rootfs.names("/etc") == ["hosts"]
