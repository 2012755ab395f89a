"""What a hub shows of an image: everything that it says of itself, its files, and a sketch of them.

Files are told apart by eight bytes of a SHA-256 of their content, so two images are compared, and
similar ones found, without the images.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from singbuild import about
from singbuild.errors import SingbuildError
from singbuild.ext3.node import one_line
from singbuild.file_tree import DIRECTORY, REGULAR, SYMLINK, Entry, FileTree
from singbuild.formats.loading import opened
from singbuild.images import inspection, sizes
from singbuild.images.provenance import statement
from singbuild.packages.tree import ImageTree

SKETCH = 128
"""Digests in a sketch: bottom-k sketch, k. An estimate from it is off by some 1 / sqrt(k)."""
_LETTERS = {REGULAR: "f", DIRECTORY: "d", SYMLINK: "l"}


class File(NamedTuple):
    """A file of an image. path: as shown; kind: f, d, l, else "o"; size: bytes.

    content: of a regular file 16 hexadecimal digits of the SHA-256 of what it stores, of a link
    its target.
    """

    path: str
    kind: str
    mode: int
    size: int
    content: str


def shown_by_itself(image: Path) -> dict[str, Any]:
    """Return what an image says, as plain values that do not depend on where and when it is asked.

    Raises ImageError for a damaged image.
    """
    with opened(image) as tree:
        summary = inspection.summary(tree)
        names = about.apps(ImageTree(tree))
        apps = {name: about.attributes(ImageTree(tree), about.ALL, name) for name in names}
        return {
            "digest": summary["digest"],
            "size": summary["size"],
            "used": summary["used"],
            "kind": summary["kind"],
            "system": summary["system"],
            "backend": summary["backend"],
            "labels": summary["labels"] or {},
            "environment": about.attributes(ImageTree(tree), ["environment"]).get(
                "environment", {}
            ),
            "packages": summary["packages"],
            "notes": summary["notes"],
            "apps": apps,
            "machine": about.machine(tree),
            "directories": sizes.directories(tree),
            **{name: summary[name] for name in ("recipe", "lock", "runscript", "test", "help")},
        }


def bill(image: Path) -> str:
    """Return an image's bill of materials: SPDX 2.3, JSON text."""
    with opened(image) as tree:
        return inspection.bill(tree)


def provenance(image: Path) -> str:
    """Return where an image comes from, as an in-toto statement; "" when it holds no lock."""
    with opened(image) as tree:
        try:
            return statement(tree)
        except SingbuildError:
            return ""


def files(image: Path) -> list[File]:
    """List the files of an image, in the order of their paths. Raises ImageError."""
    with opened(image) as tree:
        return sorted(_files(tree))


def _files(tree: FileTree) -> Iterator[File]:
    by_inode: dict[int, str] = {}
    for entry in tree.walk():
        inode = entry.inode
        content, size = "", 0
        if inode.kind == REGULAR:
            content = by_inode.get(inode.number) or _digest(tree, entry)
            by_inode[inode.number] = content
            size = inode.size
        elif inode.kind == SYMLINK:
            content = one_line(tree.target(entry))
        letter = _LETTERS.get(inode.kind, "o")
        yield File(entry.shown, letter, inode.permissions, size, content)


def _digest(tree: FileTree, entry: Entry) -> str:
    """Hash a file's data, and where each hole ends: a hole may have any size."""
    total, end = hashlib.sha256(), 0
    for offset, data in chain(tree.data(entry), [(entry.inode.size, b"")]):
        if offset > end:
            total.update(b"hole until %d\n" % offset)
        total.update(data)
        end = offset + len(data)
    return total.hexdigest()[:16]


def programs(files: Iterable[File]) -> list[str]:
    """Return the names of the files in directories of programs, sorted."""
    return sorted({each.path.rpartition("/")[2] for each in files if _is_program(each)})


def _is_program(file: File) -> bool:
    return file.kind in "fl" and file.path.split("/")[-2:-1] in (["bin"], ["sbin"])


def licences(bill: str) -> dict[str, int]:
    """Count the licences that packages declare in a bill of materials."""
    declared = (each.get("licenseDeclared", "") for each in json.loads(bill).get("packages", []))
    return dict(Counter(each for each in declared if each not in ("", "NOASSERTION", "NONE")))


def sketch(files: Iterable[File]) -> list[str]:
    """Return the SKETCH smallest digests of contents, sorted."""
    return heapq.nsmallest(
        SKETCH, {each.content for each in files if each.kind == "f" and each.size}
    )


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """Estimate the Jaccard index of two images' contents from their sketches: 0 to 1."""
    union = heapq.nsmallest(SKETCH, {*one, *other})
    both = set(one) & set(other)
    return sum(each in both for each in union) / len(union) if union else 1.0


class Difference(NamedTuple):
    """What differs between two lists of files: paths, sorted."""

    added: list[str]
    removed: list[str]
    changed: list[str]

    @property
    def total(self) -> int:
        """How many paths differ."""
        return sum(map(len, self))


def difference(one: Iterable[File], other: Iterable[File]) -> Difference:
    """Compare two lists of files by kind, mode, size and content."""
    was, now = ({each.path: each for each in files} for files in (one, other))
    both = was.keys() & now.keys()
    return Difference(
        sorted(now.keys() - was.keys()),
        sorted(was.keys() - now.keys()),
        sorted(path for path in both if was[path] != now[path]),
    )
