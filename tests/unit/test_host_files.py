"""%files: what is copied of the host, and that nothing in the tree leads a copy out of it."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from pathlib import Path

import pytest

from singbuild.console.display import Console
from singbuild.errors import HostError, RecipeError
from singbuild.recipe.grammar import CopyItem, parse
from singbuild.recipe.text import Text
from singbuild.tree import host_files
from singbuild.tree.rootfs import Rootfs
from tests.bench.host import swapped

EPOCH = 1_000_000_000


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").mkdir()
    return Rootfs(tmp_path / "tree", Console(io.StringIO()), epoch=EPOCH)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "source"
    (place / "d/sub").mkdir(parents=True)
    (place / "d/file").write_text("file")
    (place / "d/sub/deep").write_text("deep")
    monkeypatch.chdir(place)
    return place


def copy(rootfs: Rootfs, source: str, destination: str = "") -> dict[str, str]:
    recipe = parse(Text("a.def", f"Bootstrap: busybox\n%files\n    {source} {destination}\n"))
    return host_files.copy(recipe, CopyItem(source, destination, 3), rootfs)


def test_links_of_the_host_are_followed_and_modes_kept(rootfs: Rootfs, source: Path) -> None:
    (source / "d/again").symlink_to("sub")
    (source / "d/far").symlink_to(source / "d/sub/deep")
    (source / "d/file").chmod(0o4751)
    os.link(source / "d/file", source / "d/hard")
    os.mkfifo(source / "d/fifo")
    (source / "d/sub").chmod(0o2711)
    copy(rootfs, "d", "/opt/new")
    tree = rootfs.root / "opt/new"
    assert (tree / "again/deep").read_text() == (tree / "far").read_text() == "deep"
    assert not (tree / "again").is_symlink()
    assert not (tree / "far").is_symlink()
    assert stat.S_IMODE((tree / "file").stat().st_mode) == 0o4751
    assert stat.S_IMODE((tree / "sub").stat().st_mode) == 0o2711
    assert (tree / "file").stat().st_nlink == 1
    assert (tree / "fifo").is_fifo()
    assert {path.lstat().st_mtime for path in tree.rglob("*")} == {EPOCH}
    (tree / "sub").chmod(0o750)
    copy(rootfs, "d/sub", "/opt/new/")
    assert stat.S_IMODE((tree / "sub").stat().st_mode) == 0o750  # it was there


def test_holes_are_kept(rootfs: Rootfs, source: Path) -> None:
    with (source / "holes").open("wb") as file:
        file.seek(10 << 20)
        file.write(b"middle")
        file.truncate(50 << 20)
    copy(rootfs, "holes", "/holes")
    assert (rootfs.root / "holes").read_bytes() == (source / "holes").read_bytes()
    assert (rootfs.root / "holes").stat().st_blocks << 9 < 1 << 20


@pytest.mark.parametrize(
    ("prepare", "words", "why"),
    [
        (
            lambda s: (s / "d/none").symlink_to("nowhere"),
            "d/none is a link to nowhere, which cannot be copied",
            "No such",
        ),
        (lambda s: (s / "d/up").symlink_to(".."), "up is a link to ..", "symbolic links"),
        (lambda s: (s / "../tree/to/sub").symlink_to("/"), "/to/sub is a symbolic link", ""),
        (lambda s: (s / "../tree/to/file").mkdir(), "/to/file is a directory", ""),
        (lambda s: (s / "../tree/to/sub").touch(), "/to/sub is a file", ""),
    ],
)
def test_what_cannot_be_copied_names_the_line(
    rootfs: Rootfs, source: Path, prepare: object, words: str, why: str
) -> None:
    assert callable(prepare)
    (rootfs.root / "to").mkdir()
    prepare(source)
    with pytest.raises(RecipeError) as caught:
        copy(rootfs, "d/.", "/to")
    assert words in caught.value.what
    assert why in caught.value.why
    assert caught.value.line == 3


def test_no_link_in_the_tree_leads_a_copy_out(rootfs: Rootfs, source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "file").write_text("untouched")
    (rootfs.root / "link").symlink_to(outside)
    (rootfs.root / "to").mkdir()
    (rootfs.root / "to/file").symlink_to(outside / "file")
    (rootfs.root / "to/sub").symlink_to(outside)
    copy(rootfs, "d/file", "/link/")
    copy(rootfs, "d/file", "/to/file")
    copy(rootfs, "d/file", "/to/sub/file")
    with pytest.raises(RecipeError):
        copy(rootfs, "d/.", "/to/")
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "untouched"
    assert rootfs.read(str(outside / "file")) == b"file"


def test_a_link_that_is_swapped_in_leads_no_copy_out(
    rootfs: Rootfs, source: Path, tmp_path: Path
) -> None:
    for number in range(200):
        (source / f"d/{number}").touch()
    (rootfs.root / "to").mkdir()
    (rootfs.root / "link").symlink_to(tmp_path / "outside")
    with swapped(rootfs.root / "to", rootfs.root / "link"):
        for _ in range(10):
            with contextlib.suppress(RecipeError, OSError):
                copy(rootfs, "d/.", "/to/")
    assert [*(tmp_path / "outside").iterdir()] == []


def test_the_digest_is_of_what_was_copied(rootfs: Rootfs, source: Path) -> None:
    (source / "d/again").symlink_to("sub")
    os.link(source / "d/file", source / "d/hard")
    with (source / "d/holes").open("wb") as file:
        file.truncate(3 << 20)
    (rootfs.root / "there").mkdir()
    before = host_files.digest("d")
    assert copy(rootfs, "d", "/new") == {"d": before}
    assert copy(rootfs, "d/.", "/there") == {"d/.": before}
    for change in (
        lambda: (source / "d/sub/deep").write_text("DEEP"),
        lambda: (source / "d/file").chmod(0o755),
        lambda: (source / "d/file").rename(source / "d/other"),
        lambda: (source / "d/sub/new").mkdir(),
    ):
        change()
        digest = host_files.digest("d")
        assert digest != before
        assert copy(rootfs, "d", "/new/") == {"d": digest}
        before = digest


def test_a_directory_that_is_in_itself_costs_no_time(source: Path) -> None:
    for name in "abcdef":
        (source / "d" / name).symlink_to(".")
    with pytest.raises(HostError, match=r"is a link to \., which cannot be copied"):
        host_files.digest("d")
