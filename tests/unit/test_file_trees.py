"""Every kind of image is opened as the same tree: ext3, squashfs, SIF, a directory."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from singbuild import about
from singbuild.errors import ImageError
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.seal import seal, seal_tree
from singbuild.file_tree import DamagedImage
from singbuild.formats.directory import Sandbox
from singbuild.formats.loading import image_digest, opened
from singbuild.images import difference, inspection, sizes
from singbuild.squashfs.image import SquashfsImage
from singbuild.tar.write import archive
from tests.bench import sif_files as sifs
from tests.bench.image_trees import EPOCH, sample_tree, trees
from tests.bench.seal_trees import Tree, build
from tests.bench.sif_files import partition
from tests.bench.singrun_images import HEADER_2X

PACKINGS = ("gzip", "xz", "zstd", "lzma")
SOME = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampled(tmp_path_factory.mktemp("trees") / "tree", 5 << 20)


@pytest.fixture(scope="module")
def to_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a file of three of the largest blocks: xz takes a second for each MiB."""
    return sampled(tmp_path_factory.mktemp("to-pack") / "tree", (2 << 20) + 5)


def sampled(root: Path, large: int) -> Path:
    # More files than stand below one header of a squashfs's directory, 256.
    sample_tree(root, hole=20 << 20, files=300, large=large)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, EPOCH - 7), follow_symlinks=False)
    return root


def squashed(tree: Path, target: Path, *options: str) -> Path:
    words = ["mksquashfs", str(tree), str(target), "-quiet", "-no-progress", "-noappend", *options]
    subprocess.run(words, check=True, capture_output=True)
    return target


def differences(one: Path, other: Path) -> list[str]:
    with opened(one) as first, opened(other) as second:
        opened_tree = difference.files(first, second, times=True)
        return [f"{each.kind} {each.shown} {each.details}" for each in opened_tree]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_squashfs_of_any_packing_holds_what_the_directory_does(
    to_pack: Path, tmp_path: Path, packing: str
) -> None:
    image = squashed(to_pack, tmp_path / "a.sqfs", "-comp", packing)
    assert differences(to_pack, image) == []
    with opened(image) as opened_tree:
        assert opened_tree.facts.kind == f"squashfs ({packing})"


@pytest.mark.parametrize(
    "options",
    [
        ("-no-fragments",),
        ("-b", "4096"),
        ("-b", "1M", "-always-use-fragments"),
        ("-noI", "-noD", "-noF", "-noX"),
        ("-no-exports", "-no-duplicates"),
    ],
)
def test_a_squashfs_of_any_shape_is_read(
    to_pack: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert differences(to_pack, squashed(to_pack, tmp_path / "a.sqfs", *options)) == []


@pytest.mark.skipif(not shutil.which("tar2sqfs"), reason="needs tar2sqfs")
def test_a_file_of_more_than_2_gib_is_read(tmp_path: Path) -> None:
    large = tmp_path / "tree/large"
    large.parent.mkdir()
    with large.open("wb") as file:
        file.seek(2 << 30)
        file.write(b"end")
    os.utime(large, (1, EPOCH - 7))
    # mksquashfs would read 2 GiB of zeros; tar knows where the hole is.
    image = tmp_path / "a.sqfs"
    with subprocess.Popen(["tar", "-cS", "-C", tmp_path, "tree"], stdout=subprocess.PIPE) as tar:
        words = ["tar2sqfs", "-q", "-b", "1M", "--root-becomes", "tree", str(image)]
        subprocess.run(words, stdin=tar.stdout, check=True)
    assert differences(large.parent, image) == []
    with opened(image) as opened_tree:
        entry = opened_tree.find("large")
        assert entry
        assert entry.inode.size == (2 << 30) + 3


def test_what_is_packed_as_nothing_here_unpacks_is_refused(tree: Path, tmp_path: Path) -> None:
    image = squashed(tree / "etc", tmp_path / "a.sqfs", "-comp", "lz4")
    with pytest.raises(DamagedImage, match="packed with lz4"):
        opened(image)


def test_a_container_around_it_changes_nothing(tree: Path, tmp_path: Path) -> None:
    squashfs = squashed(tree, tmp_path / "a.sqfs").read_bytes()
    ext3 = seal(tree, tmp_path / "a.img", epoch=EPOCH).path
    (tmp_path / "a.simg").write_bytes(HEADER_2X + squashfs)
    sifs.written(tmp_path / "a.sif", [partition(squashfs, sifs.SQUASHFS)])
    sifs.written(tmp_path / "b.sif", [partition(ext3.read_bytes(), sifs.EXT3)])
    for name in ("a.img", "a.simg", "a.sif", "b.sif"):
        assert differences(tree, tmp_path / name) == [], name
    kinds = []
    for name in ("a.simg", "a.sif", "b.sif"):
        with opened(tmp_path / name) as opened_tree:
            kinds.append((opened_tree.facts.kind, opened_tree.facts.offset))
    assert kinds == [
        ("Singularity 2.4 image (squashfs at 31)", 31),
        ("SIF (squashfs at offset 32768)", 32768),
        ("SIF (ext3 at offset 32768)", 32768),
    ]


@SOME
@given(trees())
def test_a_random_directory_seals_alike_by_either_way(tree: Tree) -> None:
    """Through the kernel, and through an opened image: a directory, then the ext3 of it."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "tree")
        root.mkdir()
        build(tree, root, 0)
        one = seal(root, Path(place, "one"), epoch=2**33)
        with Image(one.path) as image:
            again = seal_tree(image, Path(place, "again"), epoch=2**33)
        assert one.path.read_bytes() == again.path.read_bytes()
        if os.geteuid() == 0:
            with Sandbox(root) as sandbox:
                other = seal_tree(sandbox, Path(place, "other"), epoch=2**33)
            assert other.digest == one.digest


def test_an_ext3_of_small_blocks_is_sealed_with_ours(tmp_path: Path) -> None:
    """Holes of it need not lie where our blocks begin."""
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/holes").open("wb") as file:
        for at in (1024, 5 * 1024, 4096 * 700 + 3072):
            file.seek(at)
            file.write(random.Random(at).randbytes(1500))
        file.truncate(4 << 20)
    image = tmp_path / "small.img"
    words = [
        "/sbin/mke2fs",
        "-q",
        "-t",
        "ext3",
        "-b",
        "1024",
        "-d",
        f"{tmp_path}/tree",
        f"{image}",
        "9M",
    ]
    subprocess.run(words, check=True)
    with Image(image) as one:
        seal_tree(one, tmp_path / "ours.img", epoch=EPOCH)
    assert differences(image, tmp_path / "ours.img") == []


def test_a_pipe_and_a_device_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ImageError, match="neither a regular file nor a directory"):
            opened(path)
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(ImageError, match="known: directory, ext3, sif, sif-ext3, sq"):
        opened(tmp_path / "text")


def test_links_of_a_directory_lead_nowhere_outside(tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("the host's")
    (tmp_path / "tree/etc/os-release").symlink_to("../../secret")
    (tmp_path / "tree/var").symlink_to("/")
    with opened(tmp_path / "tree") as tree:
        assert tree.find("etc/os-release") is None
        entry = tree.find("etc")
        assert entry
        (tmp_path / "tree/etc").rename(tmp_path / "tree/was")
        (tmp_path / "tree/etc").symlink_to(tmp_path)
        with pytest.raises(ImageError, match="cannot read /etc"):
            tree.names(entry)


def test_a_file_that_grows_while_it_is_archived_adds_no_headers(tmp_path: Path) -> None:
    (tmp_path / "holes").write_bytes(b"")
    os.truncate(tmp_path / "holes", 1 << 20)
    with Sandbox(tmp_path) as tree:
        pieces = archive(tree)
        before = [next(pieces) for _ in range(3)]  # the root's header, its own, the map of holes
        (tmp_path / "holes").write_bytes(b"x" * (1 << 20))
        with pytest.raises(ImageError, match="changed while it was read"):
            before += pieces
    assert b"x" * 512 not in b"".join(before)


def test_a_directory_has_a_digest_of_its_own(tree: Path, tmp_path: Path) -> None:
    before = image_digest(tree)
    assert before == image_digest(tree)
    (tree / "etc/hosts").chmod(0o600)
    assert image_digest(tree) != before
    (tree / "etc/hosts").chmod(0o644)


def test_an_image_of_another_kind_is_described(to_pack: Path, tmp_path: Path) -> None:
    image = squashed(to_pack, tmp_path / "a.sqfs", "-mkfs-time", str(EPOCH))
    layers = [
        partition(image.read_bytes(), sifs.SQUASHFS, arch=sifs.ARM64),
        partition(b"x", sifs.EXT3, sifs.OVERLAY),
    ]
    sifs.written(tmp_path / "a.sif", layers)
    with opened(tmp_path / "a.sif") as opened_tree:
        facts = inspection.summary(opened_tree)
    assert (facts["epoch"], facts["offset"], facts["digest"]) == (EPOCH, 32768, None)
    assert "overlay partition" in " ".join(facts["notes"])
    if os.uname().machine != "aarch64":
        assert "for arm64 processors" in " ".join(facts["notes"])


def test_two_inodes_of_a_squashfs_with_one_number_are_refused(tmp_path: Path) -> None:
    """A directory with the number of a file was taken for a further name of it."""
    tree = tmp_path / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "a").touch()
    image = squashed(tree, tmp_path / "a.sqfs", "-noI")
    with SquashfsImage(image) as opened_tree:
        numbers = {row[0]: row for row in opened_tree.names(opened_tree.root())}
        place = numbers[b"directory"][1]
        at = opened_tree.superblock.inode_table + (place >> 16) + 2 + (place & 0xFFFF) + 12
        number = opened_tree.named(opened_tree.root(), numbers[b"a"]).inode.number
    with image.open("r+b") as file:
        file.seek(at)
        file.write(number.to_bytes(4, "little"))
    with opened(image) as sealed_tree, pytest.raises(DamagedImage, match="/directory"):
        seal_tree(sealed_tree, tmp_path / "image", epoch=EPOCH)


def test_a_damaged_squashfs_is_read_or_refused(tree: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    (small / "a").mkdir(parents=True)
    (small / "a/file").write_bytes(b"x" * 300_000)
    os.setxattr(small / "a/file", "user.note", b"v")
    (small / "link").symlink_to("a")
    sound = squashed(small, tmp_path / "sound", "-b", "4096").read_bytes()
    used = int.from_bytes(sound[40:48], "little")
    chance, outcomes = random.Random(3), set()
    for _ in range(600):
        data = bytearray(sound)
        for _ in range(chance.choice((1, 1, 3))):
            at = chance.randrange(chance.choice((96, used)))
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        (tmp_path / "damaged").write_bytes(data)
        try:
            with SquashfsImage(tmp_path / "damaged") as image:
                for entry in image.walk():
                    image.attributes(entry)
                    if stat.S_ISREG(entry.inode.mode):
                        assert sum(len(data) for _, data in image.data(entry)) <= 64 << 20
            outcomes.add("read")
        except ImageError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_sizes_are_told_by_package_and_by_directory(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name, size in (("usr/lib/a", 700_000), ("usr/lib/b/c/d/e", 30_000), ("etc/x", 5_000)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    (root / "etc/again").hardlink_to(root / "usr/lib/a")
    with (root / "etc/hole").open("wb") as file:
        file.truncate(1 << 30)
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    stanza = "Package: {}\nStatus: install ok installed\nVersion: 1\nInstalled-Size: {}\n\n"
    status.write_text(stanza.format("small", 12) + stanza.format("large", "3000"))
    image = seal(root, tmp_path / "a.img", epoch=EPOCH).path
    with opened(image) as tree:
        opened_tree = sizes.directories(tree)
        text = sizes.described(tree)
    assert list(opened_tree)[:3] == ["/", "/etc", "/usr"]  # the first name of the file is below etc
    assert opened_tree["/etc"] == 705_000
    assert (opened_tree["/usr/lib/b"], "/usr/lib/b/c" in opened_tree) == (30_000, False)
    assert text.splitlines()[:3] == [
        "Packages: 2.9 MiB in 2",
        "     2.9 MiB  large (deb)",
        "    12.0 KiB  small (deb)",
    ]
    assert "   688.5 KiB  /etc" in text


def test_of_a_shell_that_is_no_file_nothing_is_opened(tmp_path: Path) -> None:
    """In a sandbox it may be a device of the host; open(2) of a socket fails."""
    (tmp_path / "bin").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/cwd/{os.path.relpath(tmp_path)}/bin/sh")
    with Sandbox(tmp_path) as tree:
        assert about.machine(tree) in about.MACHINES.values()
