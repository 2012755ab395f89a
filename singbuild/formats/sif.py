"""SIF, the image file of Singularity 3 and Apptainer: a root file system with its metadata.

Layout: github.com/sylabs/sif, pkg/sif/{sif,create,descriptor}.go; the runtime's reader has what
both need of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from singbuild.contract import About, Format, Reporter
from singbuild.errors import ImageError
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import FileTree, opened
from singbuild.formats import sif_writer, squashfs
from singbuild.formats.hookspecs import hookimpl
from singbuild.formats.sif_writer import Part
from singbuild.squashfs.image import SquashfsImage
from singbuild.squashfs.superblock import MAGIC as SQUASHFS
from singrun.errors import RunError
from singrun.images import sif

# Behind the launch line, for which a SIF has 32 bytes: github.com/sylabs/sif, pkg/sif/sif.go.
MAGIC, MAGIC_AT = b"SIF_MAGIC\0", 32
_HEAD = 128  # bytes of the header
_PIECE = 1 << 20


@hookimpl
def singbuild_format() -> Format:
    """Describe the format."""
    what = "a SIF of Singularity 3 and Apptainer, with a squashfs in it"
    return Format(what, (".sif",), (squashfs.PROGRAM,), executable=True)


@hookimpl
def singbuild_writer() -> str:
    """Name the program that writes the squashfs in it."""
    return squashfs.singbuild_writer()


@hookimpl
def singbuild_write(tree: FileTree, target: Path, about: About, report: Reporter) -> bool:
    """Write what the image says of itself, then its tree."""
    # Unnamed, so that a kill leaves nothing; beside the target, where there is room for both.
    with tempfile.TemporaryFile(dir=target.resolve().parent) as packed:
        squashfs.write(tree, packed, about.created, report)
        size = os.fstat(packed.fileno()).st_size
        root = sif_writer.partition(size, sif_writer.SQUASHFS, about.machine)
        with target.open("r+b") as file:
            offset = _write_records(file, about, root)
            packed.seek(0)
            file.seek(offset)
            shutil.copyfileobj(packed, file, _PIECE)
            _write_head(file, about, root)
    return True


def write_with_ext3(tree: FileTree, target: Path, about: About) -> None:
    """Write a SIF whose root partition is an ext3."""
    from singbuild.ext3.writer.seal import seal_tree  # not loaded to read images

    rough = sif_writer.partition(0, sif_writer.EXT3, about.machine)
    parts = [*(part for part, _ in _records(about)), rough]
    offset = sif_writer.offsets(parts)[-1]
    size = seal_tree(tree, target, epoch=about.created, header=bytes(offset)).size - offset
    with target.open("r+b") as file:
        root = replace(rough, size=size)
        _write_records(file, about, root)
        _write_head(file, about, root)


def _records(about: About) -> list[tuple[Part, bytes]]:
    """Return what is written beside the tree, in Apptainer's order."""
    labels = json.dumps(about.labels, sort_keys=True).encode()
    document = {"data": {"attributes": about.attributes}, "type": "container"}
    inspected = json.dumps(document, sort_keys=True).encode()
    bill = about.bill().encode()
    records = [
        (Part(sif_writer.LABELS, len(labels), "labels.json"), labels),
        # By this name Apptainer finds what its inspect shows.
        (Part(sif_writer.JSON, len(inspected), "inspect-metadata.json"), inspected),
        (Part(sif_writer.BILL, len(bill), "sbom.spdx.json", sif_writer.SPDX), bill),
    ]
    if about.definition:
        part = Part(sif_writer.DEFINITION, len(about.definition), "Singularity")
        records.insert(0, (part, about.definition))
    return records


def _write_records(file: BinaryIO, about: About, root: Part) -> int:
    """Write what stands before the partition; return where that begins."""
    records = _records(about)
    *places, offset = sif_writer.offsets([*(part for part, _ in records), root])
    for place, (_, content) in zip(places, records, strict=True):
        file.seek(place)
        file.write(content)
    return offset


def _write_head(file: BinaryIO, about: About, root: Part) -> None:
    """Write header and table, now that all that follows is known."""
    parts = [*(part for part, _ in _records(about)), root]
    digest = sif_writer.digest_of(file, sif_writer.offsets(parts)[0])
    file.seek(0)
    file.write(sif_writer.head(parts, digest, about.created, about.machine))


@hookimpl
def singbuild_recognise(head: bytes) -> bool:
    """Recognise the magic word in the header."""
    return head[MAGIC_AT:].startswith(MAGIC)


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open the primary partition at its offset. Raises ImageError."""
    fd = opened(path)
    try:
        size = os.fstat(fd).st_size
        objects = sif.objects(str(path), fd, os.pread(fd, _HEAD, 0), size)
        root = sif.primary(str(path), objects)
        is_squashfs = os.pread(fd, len(SQUASHFS), root.offset) == SQUASHFS
    except RunError as error:
        raise ImageError(error.what, why=error.why, remedy=error.remedy) from error
    finally:
        os.close(fd)
    notes = []
    if any(each.is_partition(sif.OVERLAY) for each in objects):
        notes.append("has an overlay partition, which is left out: this is what was built")
    if any(each.kind == sif.SIGNATURE for each in objects):
        notes.append("is signed: `singbuild verify` says by whom; what is made of it is not")
    name, machine = sif.MACHINES.get(root.machine, ("", ""))
    if name and machine != os.uname().machine:
        notes.append(f"its programs are for {name} processors")
    warnings = tuple(notes)
    if is_squashfs:
        kind = f"SIF (squashfs at offset {root.offset})"
        return SquashfsImage(path, offset=root.offset, room=root.size, kind=kind, notes=warnings)
    return Image(
        path, offset=root.offset, kind=f"SIF (ext3 at offset {root.offset})", notes=warnings
    )
