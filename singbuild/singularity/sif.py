"""``sif``: the objects of a SIF file, as siftool lists and dumps them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from singbuild.errors import ImageError, SingbuildError
from singbuild.file_tree import opened
from singbuild.formats.sif import MAGIC, MAGIC_AT
from singbuild.singularity.group import Group
from singrun.errors import RunError
from singrun.images import sif

_HEAD, _PIECE = 4096, 1 << 20  # bytes
_GROUP = 0xF0000000  # of an id: it is a group's. github.com/sylabs/sif, pkg/sif/descriptor.go
_TYPES = {
    0x4001: "Def.FILE",
    0x4002: "Env.Vars",
    0x4003: "JSON.Labels",
    0x4004: "FS",
    0x4005: "Signature",
    0x4006: "JSON.Generic",
    0x4007: "Generic/Raw",
    0x4008: "Cryptographic Message",
    0x4009: "SBOM",
    0x400A: "OCI.RootIndex",
    0x400B: "OCI.Blob",
}
_FILE_SYSTEMS = {1: "Squashfs", 2: "Ext3", 3: "Archive", 4: "Raw", 5: "Encrypted squashfs"}
_PARTS = {1: "System", 2: "*System", 3: "Data", 4: "Overlay"}
_ONLY_WHOLE = "A SIF is written whole: build, or singbuild convert, makes one of any image."
_ROW = "{:<5}|{:<8}|{:<8}|{:<26}|{}"


@click.group(
    "sif",
    cls=Group,
    absent={
        **dict.fromkeys(("add", "del", "new", "setprim"), _ONLY_WHOLE),
        **dict.fromkeys(("header", "info"), "singularity sif list shows all objects."),
    },
)
def sif_commands() -> None:
    """List the objects of a SIF file, and give one out."""


@sif_commands.command("list")
@click.argument("image", type=click.Path(path_type=Path))
def list_objects(image: Path) -> int:
    """List the objects of IMAGE."""
    with _objects(image) as (_, objects):
        rule = "-" * 78
        titles = _ROW.format("ID", "GROUP", "LINK", "SIF POSITION (start-end)", "TYPE")
        print(rule, titles, rule, sep="\n")
        for each in objects:
            place = f"{each.offset}-{each.offset + each.size}"
            link = str(each.link & ~_GROUP) if each.link else "NONE"
            link += " (G)" * bool(each.link & _GROUP)
            group = str(each.group & ~_GROUP) if each.group & ~_GROUP else "NONE"
            print(_ROW.format(each.number, group, link, place, _type(each)))
    return 0


@sif_commands.command("dump")
@click.argument("number", metavar="ID", type=int)
@click.argument("image", type=click.Path(path_type=Path))
def dump(number: int, image: Path) -> int:
    """Write the bytes of the object ID of IMAGE to standard output."""
    with _objects(image) as (fd, objects):
        each = next((each for each in objects if each.number == number), None)
        if not each:
            remedy = f"See: singularity sif list {image}"
            raise SingbuildError(f"there is no object {number} in {image}", remedy=remedy)
        at, end = each.offset, each.offset + each.size
        while piece := os.pread(fd, min(_PIECE, end - at), at):
            sys.stdout.buffer.write(piece)
            at += len(piece)
        sys.stdout.flush()
    return 0


@contextlib.contextmanager
def _objects(image: Path) -> Iterator[tuple[int, list[sif.Object]]]:
    """Open a SIF for the time of a with-block. Raises ImageError."""
    fd = opened(image)
    try:
        head = os.pread(fd, _HEAD, 0)
        if not head[MAGIC_AT:].startswith(MAGIC):
            raise ImageError(f"{image} is no SIF", remedy="singularity inspect shows any image.")
        yield fd, sif.objects(str(image), fd, head, os.fstat(fd).st_size)
    except RunError as error:
        raise ImageError(error.what, why=error.why, remedy=error.remedy) from error
    finally:
        os.close(fd)


def _type(each: sif.Object) -> str:
    name = _TYPES.get(each.kind, "Unknown data-type")
    if each.kind != sif.PARTITION:
        return name
    machine = sif.MACHINES.get(each.machine, ("unknown",))[0]
    system = _FILE_SYSTEMS.get(each.file_system, "Unknown fs-type")
    return f"{name} ({system}/{_PARTS.get(each.part, 'Unknown part-type')}/{machine})"
