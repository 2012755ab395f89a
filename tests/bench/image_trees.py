"""Trees that anybody can make, and what the reader sees of an image."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
import subprocess
from pathlib import Path

from hypothesis import strategies as st

from singbuild.ext3.reader.image import Image
from singbuild.file_tree import Entry
from tests.bench.seal_trees import Facts, Spec, Tree

EPOCH = 1_700_000_000
names = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {47, 0} & set(name) and name not in (b".", b"..", b"lost+found")
) | st.sampled_from([b"a\nb", b"\xff\xfe", b"-rf", b"x" * 255])
sizes = st.integers(0, 9000) | st.sampled_from([4096, 12 * 4096, 12 * 4096 + 1, (1 << 20) + 5])
parts = st.lists(st.tuples(st.booleans(), sizes), max_size=4).map(tuple)
kinds = st.sampled_from(
    [*[stat.S_IFREG] * 4, *[stat.S_IFDIR] * 4, *[stat.S_IFLNK] * 2, stat.S_IFIFO, stat.S_IFSOCK]
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    kind = draw(kinds)
    regular = kind == stat.S_IFREG
    return Spec(
        kind,
        # Owners may always read and write: the tests run without privileges too.
        mode=draw(st.integers(0, 0o777)) | (0o700 if kind == stat.S_IFDIR else 0o600),
        owner=(os.geteuid(), os.getegid()),
        mtime=draw(st.sampled_from([0, 1, EPOCH - 1, EPOCH + 0.5, 2**31, 2**32 + 7, 1e9 + 0.25])),
        parts=draw(parts) if regular else (),
        target=draw(st.sampled_from([b"t", b"x" * 59, b"x" * 60, b"\xff\n" * 500, b"x" * 4095])),
        attributes=(("user.note", draw(st.binary(max_size=300))),) if regular else (),
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree = Tree()
    directories = [b""]
    for name, spec in draw(st.dictionaries(names, specs(), max_size=12)).items():
        above = draw(st.sampled_from(directories))
        path = above + b"/" + name if above else name
        tree.specs[path] = spec
        if spec.kind == stat.S_IFDIR:
            directories.append(path)
    files = [path for path, spec in tree.specs.items() if spec.kind == stat.S_IFREG]
    if files and b"second-name" not in tree.specs:
        tree.links[b"second-name"] = draw(st.sampled_from(files))
    return tree


def image_snapshot(path: Path) -> dict[bytes, Facts]:
    """What ``seal_trees.snapshot`` tells of a directory, told of an image."""
    facts: dict[bytes, Facts] = {}
    groups: dict[int, bytes] = {}
    with Image(path) as image:
        for entry in sorted(image.walk(), key=_host_name):
            inode = entry.inode
            name = _host_name(entry)
            directory = inode.kind == "directory"
            facts[name] = (
                inode.mode,
                inode.uid,
                inode.gid,
                os.makedev(*inode.device),
                inode.mtime,
                getattr(inode, "nanoseconds"),  # noqa: B009 - only ext3 has them
                0 if directory else inode.size,
                0 if directory else groups.setdefault(inode.number, name),
                tuple((os.fsdecode(key), value) for key, value in image.attributes(entry)),
                content(image, entry),
            )
    return facts


def _host_name(entry: Entry) -> bytes:
    return b"/" + entry.path if entry.path else b""


def content(image: Image, entry: Entry) -> bytes:
    if entry.inode.kind == "symbolic link":
        return image.target(entry)
    if entry.inode.kind != "file":
        return b""
    digest = hashlib.sha256()
    for piece in image.stream(entry):
        digest.update(piece)
    return digest.digest()


def mke2fs(tree: Path, image: Path, *options: str) -> Path:
    """An image made by e2fsprogs, 64 MiB."""
    argv = ["mke2fs", "-q", "-F", "-d", str(tree), *options, str(image), "64M"]
    subprocess.run(argv, check=True, env=_with_sbin(), stdin=subprocess.DEVNULL)
    return image


def _revision_0() -> tuple[str, str]:
    with contextlib.suppress(FileNotFoundError):
        output = subprocess.run(["mke2fs", "-r", "0"], env=_with_sbin(), capture_output=True).stderr
        if b"-E revision" in output:
            return "-E", "revision=0"
    return "-r", "0"


def _with_sbin() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"}


REVISION_0 = _revision_0()
"""The option for an ext2 of 1993, without features: -r in mke2fs 1.47.0, not in 1.47.4."""


def sample_tree(root: Path, *, hole: int = 3 << 30, files: int = 700, large: int = 5 << 20) -> Path:
    """A small tree with something of everything that anybody can make.

    hole: bytes that nothing was written to, which programs read as zeros, for a second per GiB.
    files: how many small ones there are, each of which is read, hashed and written anew.
    large: bytes of one that cannot be compressed.
    """
    chance = random.Random(1)
    (root / "etc").mkdir(parents=True)
    (root / "many").mkdir()
    for number in range(files):
        (root / "many" / f"file-{number:04}-{'n' * 40}").write_text(f"{number}\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "large").write_bytes(chance.randbytes(large))
    with (root / "sparse").open("wb") as file:
        file.seek(hole)
        file.write(b"end")
    (root / "link").symlink_to("/etc")
    (root / "long").symlink_to("x" * 200)
    (root / "second").hardlink_to(root / "large")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "large", "user.note", b"value")
    os.setxattr(root / "etc/hosts", "user.long", bytes(range(256)) * 3)
    return root


def many_files(root: Path, directories: int) -> Path:
    """A hundred short files in each directory, of which every fourth has a second name."""
    for directory in (root / f"directory-{number}" for number in range(directories)):
        directory.mkdir(parents=True)
        for number in range(100):
            path = directory / f"a-file-with-a-name-{number}"
            path.write_bytes(b"%d" % number)
            if not number % 4:
                os.link(path, f"{path}-again")
    return root


def with_manifest(root: Path) -> Path:
    """Add the file that the seal fills with digests; return the tree."""
    (root / ".singularity.d").mkdir()
    (root / ".singularity.d/manifest").touch()
    return root
