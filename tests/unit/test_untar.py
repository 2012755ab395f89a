"""Archives unpacked into a directory: every kind of entry, every way to write a name, no escape."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild import SourceError
from singbuild.ext3.node import Owner
from singbuild.tar.extract import Unpacker
from singbuild.tar.limits import Limits
from tests.bench.backend_alone import Recorder
from tests.bench.docker_images import (
    Entry,
    archive,
    directory,
    entry,
    file,
    hardlink,
    opaque,
    symlink,
    whiteout,
)

ME = {"uid": os.getuid(), "gid": os.getgid()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("untouched")
    packed = tmp_path / "root"
    packed.mkdir()
    return packed


def pieces(content: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


def unpack(root: Path, *archives: bytes, size: int = 1 << 16, limits: Limits | None = None) -> None:
    with Unpacker(root, Recorder(), limits=limits, whiteouts=True) as unpacker:
        for each in archives:
            unpacker.apply(pieces(each, size))


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 7, 512, 1000, 1 << 20])
def test_pieces_may_have_any_size(root: Path, form: int, size: int) -> None:
    data = os.urandom(1500)
    packed = archive(directory("d"), file("d/a", data), file("d/empty", b""), file("b"), form=form)
    unpack(root, packed, size=size)
    assert (root / "d/a").read_bytes() == data
    assert (root / "d/empty").read_bytes() == b""
    assert tree(root) == ["b", "d", "d/a", "d/empty"]


def test_names_links_modes_and_times_are_exact(root: Path) -> None:
    odd = "d/" + "ü" * 60 + "/" + "x" * 120 + "/back\\slash \n"
    packed = archive(
        directory("./d/", mode=0o750, mtime=-300_000_000),
        file(odd, mode=0o604, mtime=1_600_000_000.25, pax_headers={"mtime": "1600000000.25"}),
        hardlink("h", "./" + odd),
        symlink("s", "../../" + "y" * 200, mtime=7),
    )
    unpack(root, packed)
    assert (root / odd).stat().st_mtime == 1_600_000_000.25
    assert stat.S_IMODE((root / odd).stat().st_mode) == 0o604
    assert (root / "d").stat().st_mtime == -300_000_000
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750
    assert os.path.samestat((root / "h").stat(), (root / odd).stat())
    assert os.readlink(root / "s") == "../../" + "y" * 200
    assert (root / "s").lstat().st_mtime == 7


def test_names_need_not_be_utf_8(root: Path) -> None:
    packed = archive(file("a\udcff\udcfe"))
    unpack(root, packed)
    assert os.listdir(os.fsencode(root)) == [b"a\xff\xfe"]


def test_a_mode_is_exact_whatever_the_umask(root: Path) -> None:
    old = os.umask(0o077)
    try:
        unpack(root, archive(file("a", mode=0o666), directory("d", mode=0o777)))
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o666
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o777


@pytest.mark.parametrize("form", ["gnu --sparse", "pax --sparse-version=0.0"])
@pytest.mark.parametrize("holes", [1, 40])
def test_sparse_files_as_gnu_tar_writes_them(root: Path, form: str, holes: int) -> None:
    check_sparse(root, form.split()[0], ["--sparse", *form.split()[1:]], holes)


@pytest.mark.parametrize("version", ["0.1", "1.0"])
@pytest.mark.parametrize("holes", [1, 40])
def test_sparse_files_in_pax_archives(root: Path, version: str, holes: int) -> None:
    check_sparse(root, "pax", ["--sparse", f"--sparse-version={version}"], holes)


def check_sparse(root: Path, form: str, options: list[str], holes: int) -> None:
    source = root.parent / "sparse"
    with source.open("wb") as out:
        for number in range(holes):
            out.seek((2 * number + 1) << 20)
            out.write(b"data %d" % number)
        out.truncate((2 * holes + 1) << 20)
    argv = ["tar", "-C", str(root.parent), f"--format={form}", *options, "-cf", "-", "sparse"]
    packed = subprocess.run(argv, capture_output=True, check=True).stdout
    assert len(packed) < 1 << 20
    unpack(root, packed)
    assert (root / "sparse").read_bytes() == source.read_bytes()
    assert (root / "sparse").stat().st_blocks < 2000


def test_a_name_is_unlinked_before_it_is_written(root: Path) -> None:
    lower = archive(file("a", b"old"), hardlink("b", "a"))
    unpack(root, lower, archive(file("b", b"new")))
    assert (root / "a").read_bytes() == b"old"
    assert (root / "b").read_bytes() == b"new"


def test_a_hard_link_may_lead_to_a_lower_layer(root: Path) -> None:
    unpack(root, archive(file("a", b"x")), archive(hardlink("d/b", "/a")), archive(whiteout("a")))
    assert (root / "d/b").read_bytes() == b"x"
    assert tree(root) == ["d", "d/b"]


def test_a_hard_link_to_itself_changes_nothing(root: Path) -> None:
    unpack(root, archive(file("a", b"x"), hardlink("a", "a")))
    assert (root / "a").read_bytes() == b"x"


KINDS = {
    "file": (file("x", b"1"),),
    "directory": (directory("x"), file("x/deep/er", b"2")),
    "link": (symlink("x", "t"),),
    "hard link": (hardlink("x", "t/keep"),),
    "fifo": (entry("x", tarfile.FIFOTYPE),),
}


@pytest.mark.parametrize("above", KINDS)
@pytest.mark.parametrize("below", KINDS)
def test_a_layer_may_change_the_type_of_an_entry(root: Path, below: str, above: str) -> None:
    unpack(root, archive(file("t/keep", b"k"), *KINDS[below]), archive(*KINDS[above]))
    assert (root / "t/keep").read_bytes() == b"k"
    alone = root.parent / "alone"
    alone.mkdir()
    unpack(alone, archive(file("t/keep", b"k"), *KINDS[above]))
    extra = {"x/deep", "x/deep/er"} if below == above == "directory" else set()
    assert set(tree(root)) - extra == set(tree(alone)) - extra
    assert stat.S_IFMT((root / "x").lstat().st_mode) == stat.S_IFMT((alone / "x").lstat().st_mode)


def test_whiteouts_hide_lower_layers_only(root: Path) -> None:
    lower = archive(file("a"), file("d/b"), file("d/c"), directory("e"), file("e/f"))
    upper = archive(
        file("a", b"new"), whiteout("a"), whiteout("d/b"), whiteout("e"), whiteout("no/such")
    )
    unpack(root, lower, upper)
    assert tree(root) == ["a", "d", "d/c"]
    assert (root / "a").read_bytes() == b"new"


@pytest.mark.parametrize("place", [0, 1, 4])
def test_an_opaque_directory_hides_what_is_below_wherever_it_stands(root: Path, place: int) -> None:
    lower = archive(file("d/old"), file("d/sub/old"), file("d/gone/old"), file("other"))
    upper = [directory("d"), file("d/new"), file("d/sub/new"), file("d/sub/deep/new")]
    upper.insert(place, opaque("d"))
    unpack(root, lower, archive(*upper))
    expected = ["d", "d/new", "d/sub", "d/sub/deep", "d/sub/deep/new", "d/sub/new", "other"]
    assert tree(root) == expected


def test_a_whiteout_follows_the_links_above_it_inside(root: Path) -> None:
    lower = archive(file("real/a"), file("real/b"), symlink("link", "/real"))
    unpack(root, lower, archive(whiteout("link/a")))
    assert tree(root) == ["link", "real", "real/b"]


def test_a_whiteout_hides_what_lower_layers_had_in_a_directory_of_its_own_layer(root: Path) -> None:
    lower = archive(file("a/old"), file("a/b/old"), file("c/old"))
    unpack(root, lower, archive(file("a/b/new"), whiteout("a"), whiteout("c"), file("c/new")))
    assert tree(root) == ["a", "a/b", "a/b/new", "c", "c/new"]
    looks = (whiteout("a/b/old"), hardlink("link", "c/old"))  # into directories of lower layers
    unpack(root, lower, archive(*looks, whiteout("a"), whiteout("c")))
    assert tree(root) == ["link"]


def test_a_directory_has_nothing_of_a_removed_one_of_its_name(root: Path) -> None:
    attributes = {"SCHILY.xattr.user.mine": "x"}
    lower = archive(directory("a"), directory("a/b", mode=0o700, mtime=7, pax_headers=attributes))
    unpack(root, lower, archive(whiteout("a"), file("a/b/new")))
    packed = (root / "a/b").stat()
    assert (stat.S_IMODE(packed.st_mode), os.listxattr(root / "a/b")) == (0o755, [])
    assert packed.st_mtime > 7


def test_what_is_removed_leaves_no_recorded_owner(root: Path) -> None:
    owners: dict[bytes, Owner] = {}
    names = ("gone", "gone/a", "opaque/a", "replaced/a", "replaced/b/c")
    lower = archive(*(file(name, b"", **ME) for name in names[1:]))
    upper = archive(whiteout("gone"), opaque("opaque"), file("replaced", b"", **ME))
    with Unpacker(root, Recorder(), whiteouts=True, owners=owners) as unpacker:
        unpacker.apply(pieces(lower))
        owners.update((name.encode(), Owner(7, 7)) for name in names)
        unpacker.apply(pieces(upper))
    assert owners == {}


def test_aufs_keeps_its_notes_to_itself(root: Path) -> None:
    notes = (directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"linked"), file(".wh..wh.aufs"))
    links = (hardlink("a", ".wh..wh.plnk/1.2"), hardlink("b", ".wh..wh.plnk/1.2"))
    unpack(root, archive(*notes, *links), archive(directory(".wh..wh.orph"), file("c")))
    assert tree(root) == ["a", "b", "c"]
    assert (root / "a").read_bytes() == b"linked"
    assert (root / "a").samefile(root / "b")


def test_names_that_lead_back_inside_are_taken_as_docker_takes_them(root: Path) -> None:
    unpack(
        root,
        archive(
            file("usr/bin/../x", b"x"),
            file("./a/./b/../../c", b"c"),
            directory("d/.."),
            hardlink("h", "no/such/../../usr//x"),
            symlink("link", "usr"),
            file("link/../y", b"y"),
        ),
    )
    assert tree(root) == ["c", "h", "link", "usr", "usr/x", "y"]
    assert (root / "h").samefile(root / "usr/x")


def test_an_attribute_that_does_not_fit_is_no_full_disk(root: Path) -> None:
    """ext3 says "No space left on device" of both; with room left it is the attribute."""
    large = file("a", pax_headers={"SCHILY.xattr.user.large": "x" * 70_000})
    with pytest.raises(SourceError, match=r"a: its attribute user\.large does not fit"):
        unpack(root, archive(large))


def test_times_of_directories_survive_later_entries(root: Path) -> None:
    lower = archive(directory("d", mtime=1000), file("d/a"), directory("d/e", mtime=2000))
    unpack(root, lower, archive(file("d/b"), whiteout("d/a"), file("d/e/f")))
    assert (root / "d").stat().st_mtime == 1000
    assert (root / "d/e").stat().st_mtime == 2000


def test_a_link_that_leads_nowhere_yet_gets_its_directory(root: Path) -> None:
    unpack(
        root, archive(symlink("var/run", "/run/x"), file("var/run/pid"), symlink("o", "../../n"))
    )
    assert (root / "run/x/pid").is_file()
    unpack(root, archive(file("o/f")))
    assert (root / "n/f").is_file()


@pytest.mark.parametrize(
    "link",
    ["..", "../..", "/", "{tmp}", "../../../../../../..{tmp}", "d/../..{tmp}", "//..//{tmp}"],
)
def test_no_link_leads_out_of_the_tree(root: Path, link: str) -> None:
    target = link.format(tmp=root.parent)
    hostile = archive(
        directory("d"), symlink("out", target), file("out/secret", b"evil"), whiteout("out/x")
    )
    unpack(root, archive(file("base")), hostile, archive(whiteout("out/secret")))
    assert (root.parent / "secret").read_text() == "untouched"
    assert sorted(os.listdir(root.parent)) == ["root", "secret"]


@pytest.mark.parametrize(
    "hostile",
    [
        [file("../secret", b"evil")],
        [file("a/../../secret", b"evil")],
        [file("..", b"evil")],
        [file("a/..", b"evil")],
        [directory("../d")],
        [hardlink("h", "../secret")],
        [hardlink("h", "a/../../secret")],
        [hardlink("h", "{secret}")],
        [hardlink("h", "no/such")],
        [hardlink("h", "")],
        [symlink("out", ".."), hardlink("h", "out/secret")],
        [symlink("a", "a"), file("a/b")],
        [file("a"), file("a/b")],
        [file("x" * 300)],
        [file("/".join(["y" * 200] * 25))],
        [symlink("s", "")],
        [entry("odd", b"Z")],
        [whiteout("..")],
        [whiteout(".")],
        [file(".wh.")],
        [file("a", uid=-5)],
        [file("a", pax_headers={"mtime": "9" * 19})],
        [file("a", pax_headers={"path": "a\0b"})],
        [file("a", pax_headers={"uid": "9" * 18})],
    ],
)
def test_what_would_lead_out_or_makes_no_sense_is_refused(root: Path, hostile: list[Entry]) -> None:
    entries = []
    for info, data in hostile:
        info.linkname = info.linkname.format(secret=root.parent / "secret")
        entries.append((info, data))
    before = os.stat(root.parent / "secret")
    with pytest.raises(SourceError) as caught:
        unpack(root, archive(file("base")), archive(*entries))
    assert "cannot be unpacked" in str(caught.value) or "damaged" in str(caught.value)
    assert (root.parent / "secret").read_text() == "untouched"
    assert os.stat(root.parent / "secret").st_nlink == before.st_nlink
    assert sorted(os.listdir(root.parent)) == ["root", "secret"]


def test_absolute_names_are_names_inside(root: Path) -> None:
    unpack(root, archive(file("/etc/passwd"), file("//x///y"), hardlink("/h", "/etc/passwd")))
    assert tree(root) == ["etc", "etc/passwd", "h", "x", "x/y"]


def test_a_directory_replaced_by_a_link_is_not_followed_for_its_times(root: Path) -> None:
    victim = root.parent / "victim"
    (victim / "b").mkdir(parents=True)
    before = (victim / "b").stat()
    lower = archive(directory("a"), directory("a/b", mode=0o700, mtime=5))
    unpack(root, lower, archive(symlink("a", str(victim))))
    after = (victim / "b").stat()
    assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)


def test_without_whiteouts_their_names_are_names(root: Path) -> None:
    with Unpacker(root, Recorder()) as unpacker:
        unpacker.apply([archive(file(".wh.a"))])
    assert tree(root) == [".wh.a"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_as_tarfile_reads_them(root: Path, form: int) -> None:
    long = "e/" + "m" * 99 + "/" + "k" * 90
    content = archive(file("a"), file(long), file("d/b"), form=form)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = sorted(tar.getnames())
    unpack(root, content)
    assert [name for name in tree(root) if (root / name).is_file()] == expected
