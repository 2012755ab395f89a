"""Paths inside an image stay inside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.console.display import Console
from singbuild.errors import ImageError
from singbuild.tree.rootfs import Rootfs


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim").write_text("untouched")
    with (tmp_path / "out").open("w") as out:
        return Rootfs(root, Console(out))


def test_links_are_resolved_inside(rootfs: Rootfs) -> None:
    rootfs.mkdir("/usr/bin")
    rootfs.symlink("/bin", "usr/bin")
    rootfs.symlink("/absolute", "/usr")
    assert rootfs.path("/bin/sh") == rootfs.root / "usr/bin/sh"
    assert rootfs.path("/absolute/bin/../lib") == rootfs.root / "usr/lib"
    assert rootfs.path("/bin", follow=False) == rootfs.root / "bin"


def test_nothing_leads_outside(rootfs: Rootfs) -> None:
    (rootfs.root / "etc").symlink_to("../outside")
    (rootfs.root / "deep").symlink_to("../../../../../../tmp")
    rootfs.write("/etc/victim", "inside")
    assert (rootfs.root.parent / "outside" / "victim").read_text() == "untouched"
    assert rootfs.read("/outside/victim") == b"inside"
    assert rootfs.path("../../x") == rootfs.root / "x"
    assert rootfs.path("/deep/x") == rootfs.root / "tmp/x"


def test_a_link_where_a_file_is_written_is_replaced(rootfs: Rootfs) -> None:
    rootfs.symlink("/file", str(rootfs.root.parent / "outside" / "victim"))
    rootfs.write("/file", b"new", 0o600)
    assert not (rootfs.root / "file").is_symlink()
    assert (rootfs.root.parent / "outside" / "victim").read_text() == "untouched"


def test_a_circle_of_links_is_an_error(rootfs: Rootfs) -> None:
    rootfs.symlink("/a", "b")
    rootfs.symlink("/b", "a")
    with pytest.raises(ImageError, match="too many levels"):
        rootfs.path("/a/x")


def test_a_directory_is_no_place_for_a_file(rootfs: Rootfs) -> None:
    rootfs.mkdir("/etc")
    with pytest.raises(ImageError, match="is a directory"):
        rootfs.write("/etc", "x")


def test_modes_are_exact_whatever_the_umask(rootfs: Rootfs) -> None:
    before = os.umask(0o077)
    try:
        rootfs.write("/a/b/file", "x", 0o4755)
        rootfs.mkdir("/tmp", 0o1777)
    finally:
        os.umask(before)
    assert (rootfs.root / "a/b/file").stat().st_mode & 0o7777 == 0o4755
    assert (rootfs.root / "a").stat().st_mode & 0o7777 == 0o755
    assert (rootfs.root / "tmp").stat().st_mode & 0o7777 == 0o1777


PARTS = st.sampled_from(["..", ".", "a", "b", "up", "top", "loop", "out"])


@given(st.lists(PARTS, max_size=12))
def test_any_path_stays_inside(parts: list[str]) -> None:
    root = Path("/nowhere-that-exists")
    with open(os.devnull, "w") as out:
        found = Rootfs(root, Console(out)).path("/".join(parts) or "/")
    assert found == root or root in found.parents
