"""Do all bytes of an image's file follow from its tree? Its format's writer answers, once more.

Of our ext3 ``verification`` knows that without writing a file. A squashfs has the bytes of one
version of its writer, which the lock in the image names if it was built so.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

import yaml

from singbuild import __version__, about, workspace
from singbuild.contract import Reporter
from singbuild.errors import HostError, ImageError
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import FileTree
from singbuild.formats import loading
from singbuild.formats.loading import Kind
from singbuild.plan import lock, preflight
from singrun.images import sif

_LOCK = ".singularity.d/lock.yaml"
_SCAN = 1 << 20  # bytes
_SIF_HEAD = 128  # bytes: github.com/sylabs/sif, pkg/sif/sif.go


def compared(path: Path, tree: FileTree, report: Reporter) -> str:
    """Say what the file's bytes are: those of its writer, or why that is not known.

    Raises ImageError where the same version of the writer gives other bytes, HostError.
    """
    kind = _kind(path, tree)
    if not kind.can_write or kind.format.directory:
        return ""
    if kind.name.startswith("sif") and _has_signature(path):
        return "its bytes were not compared, since signatures were put into it"
    try:
        preflight.check_writer(kind)
    except HostError as error:
        return f"its bytes were not compared: {error.what}"
    here = kind.writer() or f"singbuild {__version__}"
    with workspace.scratch_directory() as work, workspace.part_file(work / "image") as part:
        kind.write(tree, part.path, about.of(tree), report)
        if filecmp.cmp(path, part.path, shallow=False):
            return f"all bytes as {here} writes them"
        where = _first_difference(path, part.path)
    writer = _recorded(tree, with_writer=bool(kind.writer()))
    if writer == here:
        reason = f"all content is as built, but {here} writes other bytes from offset {where} on"
        raise tree.damaged("the file", reason)
    if writer:
        return f"its bytes were not compared: {writer} wrote them, and here is {here}"
    return f"its bytes are not those of {here} from offset {where} on: who wrote them is not known"


def _has_signature(path: Path) -> bool:
    """Whether a SIF, which has been read without an error, has a signature among its objects."""
    with path.open("rb") as file:
        rows = sif.objects(str(path), file.fileno(), file.read(_SIF_HEAD), path.stat().st_size)
    return any(each.kind == sif.SIGNATURE for each in rows)


def _kind(path: Path, tree: FileTree) -> Kind:
    kind = loading.kind_of(path)
    return loading.find("sif-ext3") if kind.name == "sif" and isinstance(tree, Image) else kind


def _recorded(tree: FileTree, *, with_writer: bool) -> str:
    """Return the program that wrote the file, as the image's lock has it; "" if it does not say."""
    entry = tree.find(_LOCK)
    try:
        document = lock.parse(tree.read(entry, lock.LARGEST).decode()) if entry else None
    except (ImageError, ValueError, yaml.YAMLError):
        return ""
    if not isinstance(document, dict):
        return ""
    return (
        str(document.get("writer") or "")
        if with_writer
        else f"singbuild {document.get('singbuild')}"
    )


def _first_difference(one: Path, other: Path) -> int:
    at = 0
    with one.open("rb") as first, other.open("rb") as second:
        while (a := first.read(_SCAN)) == (b := second.read(_SCAN)) and a:
            at += len(a)
    return at + next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                     min(len(a), len(b)))  # fmt: skip
