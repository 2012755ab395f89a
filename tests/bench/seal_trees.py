"""Trees for the seal's tests: described as data, built in any order, and read back in full.

Run as a program it prints the pickled snapshot of a directory, so that a mount
can be looked at from inside its own mount namespace.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Facts = tuple[object, ...]
EPOCH = 1_700_000_000


@dataclass(frozen=True)
class Spec:
    """One inode to make. parts: of a file, (zeros or not, bytes). target: of a link."""

    kind: int
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: float = EPOCH - 5
    parts: tuple[tuple[bool, int], ...] = ()
    target: bytes = b""
    device: int = 0
    attributes: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Tree:
    """Inodes by path, parents first, and further names of them."""

    specs: dict[bytes, Spec] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)


def build(tree: Tree, root: Path, shuffle: int) -> None:
    """Make the tree under ``root``; ``shuffle`` varies the order and how holes arise."""
    chance = random.Random(shuffle)
    base = os.fsencode(root)
    paths = list(tree.specs)
    chance.shuffle(paths)
    paths.sort(key=lambda path: path.count(b"/"))
    for path in paths:
        _make(tree.specs[path], base + b"/" + path, chance)
    for path, first in sorted(tree.links.items(), key=lambda _: chance.random()):
        os.link(base + b"/" + first, base + b"/" + path, follow_symlinks=False)
    for path in sorted(paths, key=len, reverse=True):
        _describe(tree.specs[path], base + b"/" + path)
    os.utime(root, (1, EPOCH))


def _make(spec: Spec, path: bytes, chance: random.Random) -> None:
    if spec.kind == stat.S_IFDIR:
        os.mkdir(path)
    elif spec.kind == stat.S_IFLNK:
        os.symlink(spec.target, path)
    elif spec.kind == stat.S_IFREG:
        _write(spec, path, sparse=chance.random() < 0.5)
    else:
        os.mknod(path, spec.kind | 0o600, spec.device)


def _write(spec: Spec, path: bytes, *, sparse: bool) -> None:
    with open(path, "wb") as file:
        for number, (zeros, size) in enumerate(spec.parts):
            if not zeros:
                file.write(random.Random(number).randbytes(size))
            elif sparse:
                file.seek(size, os.SEEK_CUR)
            else:
                file.write(bytes(size))
        file.truncate(sum(size for _, size in spec.parts))


def _describe(spec: Spec, path: bytes) -> None:
    os.chown(path, *spec.owner, follow_symlinks=False)
    if spec.kind != stat.S_IFLNK:
        os.chmod(path, spec.mode)
    for name, value in spec.attributes:
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, (7, spec.mtime), follow_symlinks=False)


def snapshot(root: Path, *, epoch: int | None = None) -> dict[bytes, Facts]:
    """All that can be seen of a tree but inode numbers and link counts; links as groups of names.

    epoch: modification times are taken as the seal takes them.
    """
    base = os.fsencode(root)
    facts: dict[bytes, Facts] = {}
    groups: dict[int, bytes] = {}
    for path in sorted(_paths(base)):
        status = os.lstat(path)
        name = path.removeprefix(base)
        seconds = status.st_mtime_ns // 10**9
        facts[name] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev if stat.S_IFMT(status.st_mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            seconds if epoch is None else min(seconds, epoch),
            0 if epoch is not None else status.st_mtime_ns % 10**9,
            0 if stat.S_ISDIR(status.st_mode) else status.st_size,
            0 if stat.S_ISDIR(status.st_mode) else groups.setdefault(status.st_ino, name),
            _attributes(path),
            _content(path, status.st_mode),
        )
    return facts


def _paths(base: bytes) -> Iterator[bytes]:
    yield base
    for directory, names, files in os.walk(base):
        if directory == base and b"lost+found" in names:
            names.remove(b"lost+found")
        yield from (directory + b"/" + name for name in [*names, *files])


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def _content(path: bytes, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return b""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as setxattr takes it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(snapshot(Path(sys.argv[1]))))
