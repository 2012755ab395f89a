"""What the kernel, e2fsck, debugfs and resize2fs make of sealed images, for random trees."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singbuild.ext3.writer.seal import seal, seal_tree
from singbuild.formats.directory import Sandbox
from tests.bench import seal_trees
from tests.bench.seal_trees import EPOCH, Spec, Tree, acl, build, snapshot

pytestmark = pytest.mark.root

MEMORY, DISK = Path("/dev/shm"), Path("/var/tmp")
SOME = settings(
    max_examples=int(os.environ.get("SINGBUILD_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

names = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {b"/"[0], 0} & set(name) and name not in (b".", b"..", b"lost+found")
) | st.sampled_from([b"a\nb", b"\xff\xfe", "é".encode() * 127, b"-rf", b" ", b"x" * 255])
sizes = st.one_of(
    st.integers(0, 9000),
    st.sampled_from([4096, 12 * 4096, 12 * 4096 + 1, 1 << 20, (1 << 20) + 5]),
)
parts = st.lists(st.tuples(st.booleans(), sizes), max_size=6).map(tuple)
acls = st.integers(1, 40).map(
    lambda count: acl(
        (1, 6, 0xFFFFFFFF),
        *((2, user % 8, 100_000 + user) for user in range(count)),
        (4, 4, 0xFFFFFFFF),
        (8, 5, 70_000),
        (16, 7, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    )
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
free_attributes = st.dictionaries(
    st.sampled_from(["trusted.a", "trusted.name-of-some-length", "trusted.é", "security.any"]),
    st.binary(max_size=600),
    max_size=4,
)
owners = st.tuples(*[st.sampled_from([0, 1, 1000, 65535, 65536, 70_000, 2**32 - 2])] * 2)
times = st.sampled_from([-(2**31), -1, 0, 1, EPOCH - 1, EPOCH + 0.5, 2**31, 2**32 + 7, 1e9 + 0.25])


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    kind = draw(
        st.sampled_from(
            [
                *[stat.S_IFREG] * 5,
                *[stat.S_IFDIR] * 4,
                *[stat.S_IFLNK] * 2,
                stat.S_IFIFO,
                stat.S_IFSOCK,
                stat.S_IFCHR,
                stat.S_IFBLK,
            ]
        )
    )
    attributes = draw(free_attributes)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        if draw(st.booleans()):
            attributes["user.note"] = draw(st.binary(max_size=300))
        if draw(st.integers(0, 4)) == 0:
            attributes["system.posix_acl_access"] = draw(acls)
    if kind == stat.S_IFDIR and draw(st.integers(0, 4)) == 0:
        attributes["system.posix_acl_default"] = draw(acls)
    if kind == stat.S_IFREG and draw(st.integers(0, 4)) == 0:
        attributes["security.capability"] = CAPABILITY
    return Spec(
        kind,
        mode=draw(st.integers(0, 0o7777)),
        owner=draw(owners),
        mtime=draw(times),
        parts=draw(parts) if kind == stat.S_IFREG else (),
        target=draw(st.sampled_from([b"t", b"x" * 59, b"x" * 60, b"\xff\n" * 500, b"x" * 4095])),
        device=draw(st.sampled_from([0, 0x105, os.makedev(300, 7), os.makedev(8, 70_000)])),
        attributes=tuple(attributes.items()),
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree = Tree()
    directories = [b""]
    for name, spec in draw(st.dictionaries(names, specs(), max_size=25)).items():
        above = draw(st.sampled_from(directories))
        path = above + b"/" + name if above else name
        tree.specs[path] = spec
        if spec.kind == stat.S_IFDIR and len(path) < 2000:
            directories.append(path)
    linkable = [path for path, spec in tree.specs.items() if spec.kind != stat.S_IFDIR]
    for number in range(draw(st.integers(0, 4)) if linkable else 0):
        above = draw(st.sampled_from(directories))
        name = b"link%d" % number
        tree.links[above + b"/" + name if above else name] = draw(st.sampled_from(linkable))
    return tree


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="seal-", dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def check(image: Path) -> None:
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Fix?" not in done.stdout


def in_mount(image: Path, place: Path, options: str, script: str) -> bytes:
    """Run shell lines with the image on $M, in a mount namespace that ends with them."""
    mount = place / "mount"
    mount.mkdir(exist_ok=True)
    lines = f"set -e; mount -t ext3 -o loop,{options} {image} {mount}; M={mount}; {script}"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", lines], check=True, capture_output=True
    ).stdout


def seen_by_kernel(image: Path, place: Path) -> dict[bytes, seal_trees.Facts]:
    script = f"{sys.executable} {seal_trees.__file__} $M"
    facts: dict[bytes, seal_trees.Facts] = pickle.loads(in_mount(image, place, "ro", script))
    return facts


@SOME
@given(tree=trees(), free=st.sampled_from([0, 0, 1, 9 << 20]))
def test_a_random_tree_seals_the_same_from_two_copies_and_reads_back(tree: Tree, free: int) -> None:
    with workplace(MEMORY) as one, workplace(DISK) as two:
        for shuffle, place in enumerate((one, two)):
            (place / "tree").mkdir(mode=0o751)
            os.chmod(place / "tree", 0o751)
            build(tree, place / "tree", shuffle)
        first = seal(one / "tree", one / "image", epoch=EPOCH, free=free)
        second = seal(two / "tree", two / "image", epoch=EPOCH, free=free)
        assert (one / "image").read_bytes() == (two / "image").read_bytes()
        assert (first.uuid, first.digest) == (second.uuid, second.digest)
        check(one / "image")
        assert seen_by_kernel(one / "image", one) == snapshot(one / "tree", epoch=EPOCH)
        check_debugfs_reads(one / "image", one)
        check_can_be_used(one / "image", one)


def check_debugfs_reads(image: Path, place: Path) -> None:
    """debugfs, which shares no code with the kernel, unpacks the same file data and links."""
    out = place / "dumped"
    out.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {out}", image], check=True, capture_output=True)
    actual, expected = snapshot(out), snapshot(place / "tree")
    readable = {
        p: f
        for p, f in expected.items()
        if stat.S_IFMT(int(str(f[0]))) in (stat.S_IFREG, stat.S_IFLNK)
    }
    assert {p: (actual[p][6], actual[p][9]) for p in readable} == {
        p: (f[6], f[9]) for p, f in readable.items()
    }


def check_can_be_used(image: Path, place: Path) -> None:
    """The kernel fills and empties a copy, resize2fs grows it, and e2fsck still finds no fault."""
    copy = place / "copy"
    shutil.copyfile(image, copy)
    subprocess.run(["resize2fs", copy, "64M"], check=True, capture_output=True)
    check(copy)
    filling = """
        mkdir $M/filled || exit 0  # no inode to spare
        for i in $(seq 300); do touch $M/filled/$i || break; done
        dd if=/dev/zero of=$M/filled/data bs=1M || true; sync -f $M
        rm -r $M/filled; umount $M"""
    in_mount(copy, place, "rw", filling)
    check(copy)


def test_an_image_mounted_and_sealed_again_is_the_same_image(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    build(every_kind(), tree, 1)
    sealed = seal(tree, tmp_path / "a.img", epoch=EPOCH)
    script = f"""{sys.executable} -c '
from pathlib import Path
from singbuild.ext3.writer.seal import seal
print(seal(Path("{tmp_path}/mount"), Path("{tmp_path}/b.img"), epoch={EPOCH}).digest)'"""
    assert in_mount(tmp_path / "a.img", tmp_path, "ro", script).decode().strip() == sealed.digest
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


def every_kind() -> Tree:
    tree = Tree()
    for number, kind in enumerate([0o1, 0o2, 0o4, 0o6, 0o10, 0o12, 0o14]):
        tree.specs[b"kind%o" % kind] = Spec(
            kind << 12,
            owner=(number, 70_000),
            parts=((False, 50_000), (True, 50_000)),
            target=b"x" * 70,
            attributes=(("trusted.a", b"v" * 200),),
        )
    tree.links = {b"again12": b"kind12", b"again10": b"kind10", b"again6": b"kind6"}
    return tree


MATRIX = [
    {"TZ": "Asia/Tokyo", "LANG": "C", "umask": "000"},
    {"TZ": "America/New_York", "LC_ALL": "de_DE.UTF-8", "umask": "077"},
    {"TZ": "", "LC_ALL": "POSIX", "umask": "027", "MKE2FS_CONFIG": "/nonexistent"},
]


def test_locale_zone_umask_and_user_leave_no_trace() -> None:
    with workplace(MEMORY) as place:
        place.chmod(0o755)
        images = sealed_everywhere(place / "tree")
    assert images[0] == images[1] == images[2]


def sealed_everywhere(tree: Path) -> list[bytes]:
    tree.mkdir()
    for name in ("b", "A", "ä", "Z", "_"):
        (tree / name).write_text(name)
        os.utime(tree / name, (0, EPOCH))
    os.utime(tree, (0, EPOCH))
    return [sealed_elsewhere(tree, number, dict(env)) for number, env in enumerate(MATRIX)]


def sealed_elsewhere(tree: Path, number: int, environment: dict[str, str]) -> bytes:
    """Seal in a process of its own; the last one as the user nobody."""
    umask = int(environment.pop("umask"), 8)
    with workplace(MEMORY) as place:
        place.chmod(0o777)
        code = (
            "import os; from pathlib import Path; from singbuild.ext3.writer.seal import seal;"
            f"os.setuid({65534 if number == 2 else 0});"
            f"seal(Path('{tree}'), Path('{place}/a.img'), epoch={EPOCH})"
        )
        environment = {"PYTHONPATH": str(Path(__file__).parents[3]), **environment}
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, env=environment, umask=umask, cwd="/")
        assert stat.S_IMODE((place / "a.img").stat().st_mode) == 0o755
        return (place / "a.img").read_bytes()


def test_a_hundred_thousand_files_in_five_hundred_directories() -> None:
    with workplace(MEMORY) as place:
        tree = place / "tree"
        for directory in range(500):
            (tree / f"d{directory}").mkdir(parents=True)
            for number in range(200):
                (tree / f"d{directory}/f{number}").write_bytes(b"%d" % number * (number * 13))
        sealed = seal(tree, place / "image", epoch=EPOCH)
        check(place / "image")
        count = in_mount(place / "image", place, "ro", "find $M -type f | wc -l")
        assert int(count) == 100_000
        data = sum(-(-len(b"%d" % n) * n * 13 // 4096) for n in range(200)) * 500 * 4096
        assert data < sealed.size < 1.2 * data


def test_twenty_thousand_files_in_one_directory_are_found_by_hash() -> None:
    with workplace(MEMORY) as place:
        tree = place / "tree"
        tree.mkdir()
        for number in range(20_000):
            (tree / f"name with {number}").touch()
        seal(tree, place / "image", epoch=EPOCH, free=1 << 20)
        check(place / "image")
        script = "cd $M; stat -c %n 'name with 19999' 'name with 0'; ls | wc -l"
        assert in_mount(place / "image", place, "ro", script).split()[-1] == b"20001"
        use = """cd $M; for i in $(seq 900); do mv "name with $i" "other $i"; done
            cd /; umount $M"""
        in_mount(place / "image", place, "rw", use)
        check(place / "image")


def test_a_sparse_file_of_five_gigabytes_stays_sparse() -> None:
    with workplace(MEMORY) as place:
        tree = place / "tree"
        tree.mkdir()
        with (tree / "sparse").open("wb") as file:
            for offset in (0, 3 << 30, (5 << 30) - 4):
                file.seek(offset)
                file.write(b"data")
        sealed = seal(tree, place / "image", epoch=EPOCH)
        assert sealed.size < 6 << 20
        check(place / "image")
        script = f"cmp $M/sparse {tree}/sparse; stat -c '%s %b' $M/sparse"
        size, sectors = in_mount(place / "image", place, "ro", script).split()
        assert int(size) == 5 << 30
        assert int(sectors) <= 10 * 8  # three blocks of data, seven that say where they are


def test_zeros_stored_by_the_host_become_holes_and_change_no_byte() -> None:
    """300 MB of zeros lead the first guess to three block groups, their absence to one."""
    with workplace(MEMORY) as place:
        for name, stored in (("holes", False), ("zeros", True)):
            (place / name).mkdir()
            os.chmod(place / name, 0o755)
            with (place / name / "file").open("wb") as file:
                for _ in range(300 if stored else 0):
                    file.write(bytes(1 << 20))
                file.truncate(300 << 20)
            os.utime(place / name / "file", (0, EPOCH))
            os.utime(place / name, (0, EPOCH))
            sealed = seal(place / name, place / f"{name}.img", epoch=EPOCH)
            with Sandbox(place / name) as sandbox:
                copy = seal_tree(sandbox, place / f"{name}-copy.img", epoch=EPOCH)
            assert copy.digest == sealed.digest
        assert (place / "holes.img").read_bytes() == (place / "zeros.img").read_bytes()
        assert (place / "zeros.img").stat().st_size < 6 << 20
        check(place / "zeros.img")


def test_lost_and_found_is_the_file_systems_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "lost+found").mkdir(parents=True, mode=0o777)
    (tree / "lost+found" / "trap").touch()
    (tree / "deep" / "lost+found").mkdir(parents=True)
    seal(tree, tmp_path / "image", epoch=EPOCH)
    check(tmp_path / "image")
    result = in_mount(
        tmp_path / "image", tmp_path, "ro", "cd $M; stat -c '%a %Y %n' lost+found; find ."
    )
    lines = result.decode().splitlines()
    assert lines[0] == f"700 {EPOCH} lost+found"
    assert "./deep/lost+found" in lines
    assert "./lost+found/trap" not in lines
