"""One tree in every format: the same bytes each time, and nothing lost that is not told."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

from singbuild import command
from singbuild.cli.main import commands
from singbuild.errors import BackendError, HostError, ImageError, SingbuildError
from singbuild.ext3.writer.seal import seal
from singbuild.file_tree import FileTree
from singbuild.formats import loading
from singbuild.images import verification
from tests.bench import sif_files as sifs
from tests.bench.image_trees import EPOCH, sample_tree, trees
from tests.bench.seal_trees import Tree, acl, build

FORMATS = ("ext3", "squashfs", "sif", "sif-ext3")
SOME = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ANY = 0xFFFFFFFF
ACL = acl((1, 6, ANY), (2, 4, 7), (4, 4, ANY), (0x10, 6, ANY), (0x20, 4, ANY))
pytestmark = pytest.mark.skipif(command.which("tar2sqfs") is None, reason="needs tar2sqfs")


class Ended(NamedTuple):
    status: int
    output: str


def call(*words: str | Path) -> Ended:
    done = CliRunner().invoke(commands, [*map(str, words)], standalone_mode=False)
    if isinstance(done.exception, SingbuildError):
        return Ended(done.exception.status, done.output + str(done.exception))
    if done.exception:
        raise done.exception
    return Ended(done.return_value, done.output)


def converted(source: Path, target: Path, form: str = "", *, umask: int = 0o022) -> Path:
    before = os.umask(umask)
    try:
        done = call("convert", "-q", "--force", "--format", form, source, target)
    finally:
        os.umask(before)
    assert done.status == 0, done.output
    return target


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("formats")
    tree = sample_tree(place / "tree", hole=20 << 20, files=300)
    home = tree / ".singularity.d"
    (home / "env").mkdir(parents=True)
    (home / "manifest").touch()
    (home / "labels.json").write_text('{"Title": "small"}')
    (home / "Singularity").write_text("Bootstrap: busybox\n")
    (home / "runscript").write_text("#!/bin/sh\necho hello\n")
    (home / "env/90-environment.sh").write_text("export A=1\n")
    (tree / "scif/apps/foo").mkdir(parents=True)
    return seal(tree, place / "a.img", epoch=EPOCH).path


@SOME
@given(trees())
def test_a_random_tree_has_the_same_bytes_in_each_format(tree: Tree) -> None:
    """Whatever it is read from, and whoever writes it; and what comes back is what went in."""
    tree.specs = {path: spec for path, spec in tree.specs.items() if not stat.S_ISSOCK(spec.kind)}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "tree").mkdir()
        build(tree, place / "tree", 0)
        first = seal(place / "tree", place / "a.img", epoch=EPOCH).path
        copies = [converted(first, place / f"1.{form}", form) for form in FORMATS]
        for source in copies:
            for form, one in zip(FORMATS, copies, strict=True):
                other = converted(source, place / f"2.{form}", form, umask=0o077)
                assert one.read_bytes() == other.read_bytes(), (source, form)
        assert copies[0].read_bytes() == first.read_bytes()


@pytest.mark.parametrize("form", [*FORMATS, "directory"])
def test_every_format_is_sound_and_leads_back(image: Path, tmp_path: Path, form: str) -> None:
    copy = converted(image, tmp_path / "made", form)
    if form != "directory" or os.geteuid() == 0:
        assert verification.verify(copy).digest == verification.verify(image).digest
        back = converted(copy, tmp_path / "back.img")
        if form != "directory":  # which has no date of its own
            assert back.read_bytes() == image.read_bytes()
    done = call("diff", image, copy)
    assert (done.status, done.output) == (0, "no difference\n")


def test_the_ending_of_the_targets_name_chooses(image: Path, tmp_path: Path) -> None:
    kinds = {}
    for name in ("a.sif", "a.SIF", "a.sqfs", "a.sqsh", "a.squashfs", "a.img", "a"):
        with loading.opened(converted(image, tmp_path / name)) as tree:
            kinds[name] = tree.facts.kind.split()[0]
    assert list(kinds.values()) == ["SIF", "SIF", *["squashfs"] * 3, "singbuild", "singbuild"]
    done = call("convert", "--format", "sfi", image, tmp_path / "b")
    assert done.status == BackendError.status
    assert "did you mean 'sif'" in done.output


def test_files_are_executable_where_a_kernel_starts_them(image: Path, tmp_path: Path) -> None:
    modes = {}
    for form in FORMATS:
        copy = converted(image, tmp_path / form, form, umask=0o027)
        modes[form] = copy.stat().st_mode & 0o777
    assert modes == {"ext3": 0o750, "squashfs": 0o640, "sif": 0o750, "sif-ext3": 0o750}


def test_a_sif_is_what_its_description_says(image: Path, tmp_path: Path) -> None:
    data = converted(image, tmp_path / "a.sif").read_bytes()
    (launch, magic, version, arch, uuid, created, changed, free, total, table, length, begin, size,
     ) = sifs.HEADER.unpack(data[: sifs.HEADER.size])  # fmt: skip
    assert (launch, magic, version) == (sifs.LAUNCH, b"SIF_MAGIC\0", b"01\0")
    assert (created, changed, total, table, length) == (EPOCH, EPOCH, 48, 4096, 48 * 585)
    assert (begin, begin + size) == (32176, len(data))
    assert uuid[6] >> 4 == 8
    rows = [
        sifs.DESCRIPTOR.unpack_from(data, table + number * 585) for number in range(total - free)
    ]
    kinds = [row[0] for row in rows]
    assert kinds == [sifs.DEFFILE, sifs.LABELS, sifs.JSON, sifs.SBOM, sifs.PARTITION]
    end = begin
    for number, row in enumerate(rows, 1):
        _, used, name, group, link, offset, count, padded = row[:8]
        assert (used, name, group, link) == (True, number, 0xF0000001, 0)
        assert offset == end + padded - count
        end = offset + count
    content = {row[0]: data[row[5] : row[5] + row[6]] for row in rows}
    assert content[sifs.DEFFILE] == b"Bootstrap: busybox\n"
    assert json.loads(content[sifs.LABELS]) == {"Title": "small"}
    attributes = json.loads(content[sifs.JSON])["data"]["attributes"]
    assert attributes["environment"] == {"/.singularity.d/env/90-environment.sh": "export A=1\n"}
    assert (attributes["apps"], attributes["deffile"]) == ({"foo": {}}, "Bootstrap: busybox\n")
    assert json.loads(content[sifs.SBOM])["spdxVersion"] == "SPDX-2.3"
    assert struct.unpack("<ii3s", rows[-1][13][:11]) == (sifs.SQUASHFS, sifs.PRIMARY, arch)
    assert rows[-1][5] % 4096 == 0
    assert content[sifs.PARTITION][:4] == b"hsqs"


@pytest.mark.parametrize("form", ["squashfs", "sif", "sif-ext3"])
def test_verify_holds_all_bytes_against_the_writer(image: Path, tmp_path: Path, form: str) -> None:
    copy = converted(image, tmp_path / "made", form)
    writer = loading.find(form).writer() or "singbuild "
    assert f"; all bytes as {writer}" in call("verify", copy).output
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1  # padding, which no inode owns
    copy.write_bytes(data)
    outcome = call("verify", copy)
    assert f"from offset {len(data) - 1} on" in outcome.output


def test_verify_tells_who_wrote_what_it_cannot_compare(tmp_path: Path) -> None:
    writer = loading.find("squashfs").writer()
    for program, status, words in (
        (writer, 8, "all content is as built, but tar2sqfs"),
        ("tar2sqfs 9.9", 0, "were not compared: tar2sqfs 9.9 wrote them"),
    ):
        tree = tmp_path / program.replace(" ", "-") / "tree"
        (tree / ".singularity.d").mkdir(parents=True)
        (tree / ".singularity.d/manifest").touch()
        (tree / ".singularity.d/lock.yaml").write_text(f"writer: {program}\n")
        image = seal(tree, tree.parent / "a.img", epoch=EPOCH).path
        copy = converted(image, tree.parent / "a.sqfs", "squashfs")
        copy.write_bytes(copy.read_bytes() + b"\1")
        outcome = call("verify", copy)
        assert outcome.status == status, outcome.output
        assert words in outcome.output


def test_what_a_squashfs_cannot_hold_is_told_and_the_rest_is_sound(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / ".singularity.d").mkdir(parents=True)
    (tree / ".singularity.d/manifest").touch()
    (tree / "acl").write_text("x")
    os.setxattr(tree / "acl", "system.posix_acl_access", ACL)
    (tree / "old").write_text("x")
    os.utime(tree / "old", (0, -1000))
    with socket.socket(socket.AF_UNIX) as each:
        each.bind(str(tree / "socket"))
    image = seal(tree, tmp_path / "a.img", epoch=EPOCH).path
    done = call("convert", image, tmp_path / "a.sif")
    assert done.status == 0
    output = done.output
    for words in ("no sockets, left out: /socket", "no access control lists, left out: /acl"):
        assert words in output
    assert "no dates outside 1970 to 2106, left out: /old" in output
    assert verification.verify(tmp_path / "a.sif").files == 5
    back = converted(tmp_path / "a.sif", tmp_path / "b.img")
    assert verification.verify(back).files == 5


def test_a_host_without_the_writer_says_what_would_help(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "which", lambda _: None)
    done = call("convert", image, tmp_path / "a.sif")
    assert done.status == HostError.status
    assert "squashfs-tools-ng" in done.output
    assert "--format ext3 or sif-ext3" in done.output
    assert call("convert", "--format", "sif-ext3", image, tmp_path / "b.sif").status == 0


@pytest.mark.parametrize("form", [*FORMATS, "directory"])
def test_a_failed_conversion_leaves_the_target_as_it_was(
    image: Path, tmp_path: Path, form: str
) -> None:
    """Damage in the middle of the source; and the target that is there stays."""
    data = bytearray(image.read_bytes())
    with loading.opened(image) as tree:
        at = _inode_offset(tree, "many")
    data[at : at + 2] = b"\xff\xff"
    (tmp_path / "damaged.img").write_bytes(data)
    target = tmp_path / "target"
    if form == "directory":
        (target / ".singularity.d").mkdir(parents=True)
        (target / "kept").write_text("hsqs: kept")
    else:
        target.write_text("hsqs: kept")
    done = call("convert", "--force", "--format", form, tmp_path / "damaged.img", target)
    assert done.status == ImageError.status, done.output
    assert (target / "kept" if form == "directory" else target).read_text() == "hsqs: kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.img", "target"]


def _inode_offset(tree: FileTree, path: str) -> int:
    entry = tree.find(path)
    assert entry
    group, index = divmod(entry.inode.number - 1, tree.superblock.group_inodes)  # type: ignore[attr-defined]
    offset: int = tree._table(group) * 4096 + index * 256  # type: ignore[attr-defined]
    return offset


def test_a_target_that_is_there_is_replaced_only_when_asked(image: Path, tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_text("kept")
    (tmp_path / "box").mkdir()
    for target, form in ((tmp_path / "a.sif", "sif"), (tmp_path / "box", "directory")):
        done = call("convert", "--format", form, image, target)
        assert done.status == ImageError.status
        assert "--force" in done.output
    (image.parent / ".singularity.d").mkdir()
    done = call("convert", "--force", "--format", "directory", image, image.parent)
    assert (done.status, "lie in one another" in done.output) == (ImageError.status, True)


def test_a_slash_at_the_end_is_a_directorys(image: Path, tmp_path: Path) -> None:
    done = call("convert", "-q", image, f"{tmp_path}/box/")
    assert done.status == 0, done.output
    assert (tmp_path / "box").is_dir()


def test_a_directory_replaces_another_all_at_once(image: Path, tmp_path: Path) -> None:
    (tmp_path / "box/.singularity.d").mkdir(parents=True)
    (tmp_path / "box/old").write_text("x")
    converted(image, tmp_path / "box", "directory")
    assert not (tmp_path / "box/old").exists()
    assert (tmp_path / "box/etc/hosts").read_text() == "127.0.0.1 localhost\n"
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_formats_are_listed(tmp_path: Path) -> None:
    output = call("formats").output
    for name in (*FORMATS, "directory"):
        assert f"\n{name} " in f"\n{output}"
    rows = json.loads(call("formats", "--json").output)["formats"]
    assert {row["name"]: row["endings"] for row in rows}["sif"] == [".sif"]


def test_the_real_unsquashfs_agrees(image: Path, tmp_path: Path) -> None:
    copy = converted(image, tmp_path / "a.sqfs")
    done = subprocess.run(
        ["unsquashfs", "-d", tmp_path / "out", copy], check=False, capture_output=True
    )
    if os.geteuid() == 0:
        assert done.returncode == 0, done
    assert (tmp_path / "out/etc/hosts").read_text() == "127.0.0.1 localhost\n"
    assert (tmp_path / "out/second").stat().st_nlink == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [("a.sfi", ".sif"), ("a.SIFF", ".sif"), ("a.img", ""), ("a", ""), ("a.sif", ""), ("a.foo", "")],
)
def test_a_mistyped_ending_is_told_of(name: str, meant: str) -> None:
    assert loading.meant_ending(Path(name)) == meant
