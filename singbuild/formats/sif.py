"""SIF, the file of Singularity 3 and Apptainer: a root file system with what is said of it.

Layout: github.com/sylabs/sif, pkg/sif/{sif,create,descriptor}.go; the runtime's reader has what
both need of it.
"""

from __future__ import annotations

import os
from pathlib import Path

from singbuild.contract import Format
from singbuild.errors import ImageError
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import FileTree, opened
from singbuild.formats.hookspecs import hookimpl
from singbuild.squashfs.image import SquashfsImage
from singbuild.squashfs.superblock import MAGIC as SQUASHFS
from singrun.errors import RunError
from singrun.images import sif

MAGIC, MAGIC_AT = b"SIF_MAGIC\0", 32
_HEAD = 128  # bytes of the header


@hookimpl
def singbuild_format() -> Format:
    """One file."""
    return Format("a SIF of Singularity 3 and Apptainer, with a squashfs in it", (".sif",),
                  executable=True)  # fmt: skip


@hookimpl
def singbuild_recognise(head: bytes) -> bool:
    """By the word in the header."""
    return head[MAGIC_AT:].startswith(MAGIC)


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open the primary partition at its offset. Raises ImageError."""
    fd = opened(path)
    try:
        size = os.fstat(fd).st_size
        found = sif.objects(str(path), fd, os.pread(fd, _HEAD, 0), size)
        root = sif.primary(str(path), found)
        is_squashfs = os.pread(fd, len(SQUASHFS), root.offset) == SQUASHFS
    except RunError as error:
        raise ImageError(error.what, why=error.why, remedy=error.remedy) from error
    finally:
        os.close(fd)
    notes = []
    if any(each.is_partition(sif.OVERLAY) for each in found):
        notes.append("has an overlay partition, which is left out: this is what was built")
    name, machine = sif.MACHINES.get(root.machine, ("", ""))
    if name and machine != os.uname().machine:
        notes.append(f"its programs are for {name} processors")
    told = tuple(notes)
    if is_squashfs:
        kind = f"SIF (squashfs at offset {root.offset})"
        return SquashfsImage(path, offset=root.offset, room=root.size, kind=kind, notes=told)
    return Image(path, offset=root.offset, kind=f"SIF (ext3 at offset {root.offset})", notes=told)
