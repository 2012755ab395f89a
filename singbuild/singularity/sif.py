"""``sif``: the objects of a SIF file, as siftool lists and dumps them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click

from singbuild.console.events import printable
from singbuild.errors import ImageError, SingbuildError
from singbuild.singularity.group import Group
from singrun.errors import RunError
from singrun.images import sif

_HEAD, _PIECE = 4096, 1 << 20  # bytes
TYPES = {
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
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_ROW = "{:<5}|{:<8}|{:<8}|{:<26}|{}"


@click.group(
    "sif",
    cls=Group,
    absent=dict.fromkeys(("add", "del", "new", "setprim"), _ONLY_WHOLE),
)
def sif_commands() -> None:
    """Show the header and the objects of a SIF file, and give one out."""


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
            print(_ROW.format(each.number, _group(each), _link(each), place, _type(each)))
    return 0


@sif_commands.command("header")
@click.argument("image", type=click.Path(path_type=Path))
def header(image: Path) -> int:
    """Print the header of IMAGE: what it is for, when it was made, and what is where."""
    from singbuild.formats.sif_writer import HEADER

    with _objects(image) as (fd, _):
        fields = HEADER.unpack(os.pread(fd, HEADER.size, 0))
    launch, _, version, machine, identity, created, modified, *places = fields
    free, total, table_offset, table_size, data_offset, data_size = places
    rows = {
        "Launch Script": _text(launch),
        "Version": _text(version),
        "Primary Architecture": sif.MACHINES.get(machine[:2], ("unknown",))[0],
        "ID": str(UUID(bytes=identity)),
        "Created At": _time(created),
        "Modified At": _time(modified),
        "Descriptors Free": free,
        "Descriptors Total": total,
        "Descriptors Offset": table_offset,
        "Descriptors Size": _size(table_size),
        "Data Offset": data_offset,
        "Data Size": _size(data_size),
    }
    _print_table(rows)
    return 0


@sif_commands.command("info")
@click.argument("number", metavar="ID", type=int)
@click.argument("image", type=click.Path(path_type=Path))
def info(number: int, image: Path) -> int:
    """Print what the descriptor of the object ID of IMAGE says."""
    with _objects(image) as (_, objects):
        each = _object(objects, number, image)
    rows = {
        "Data Type": TYPES.get(each.kind, "Unknown data-type"),
        "ID": each.number,
        "Group ID": _group(each),
        "Linked ID": _link(each),
        "Offset": each.offset,
        "Size": each.size,
        "Created At": _time(each.created),
        "Modified At": _time(each.modified),
    }
    if name := _text(each.name):
        rows["Name"] = name
    if each.kind == sif.PARTITION:
        rows["Filesystem Type"] = _FILE_SYSTEMS.get(each.file_system, "Unknown fs-type")
        rows["Partition Type"] = _PARTS.get(each.part, "Unknown part-type")
        rows["Architecture"] = sif.MACHINES.get(each.machine, ("unknown",))[0]
    _print_table(rows, indent="  ", gap=2)
    return 0


@sif_commands.command("dump")
@click.argument("number", metavar="ID", type=int)
@click.argument("image", type=click.Path(path_type=Path))
def dump(number: int, image: Path) -> int:
    """Write the bytes of the object ID of IMAGE to standard output."""
    with _objects(image) as (fd, objects):
        each = _object(objects, number, image)
        at, end = each.offset, each.offset + each.size
        while piece := os.pread(fd, min(_PIECE, end - at), at):
            sys.stdout.buffer.write(piece)
            at += len(piece)
        sys.stdout.flush()
    return 0


@contextlib.contextmanager
def _objects(image: Path) -> Iterator[tuple[int, list[sif.Object]]]:
    """Open a SIF for the time of a with-block. Raises ImageError."""
    from singbuild.file_tree import opened
    from singbuild.formats.sif import MAGIC, MAGIC_AT

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


def _object(objects: list[sif.Object], number: int, image: Path) -> sif.Object:
    for each in objects:
        if each.number == number:
            return each
    remedy = f"See: singularity sif list {image}"
    raise SingbuildError(f"there is no object {number} in {image}", remedy=remedy)


def _print_table(rows: Mapping[str, object], indent: str = "", gap: int = 1) -> None:
    width = max(map(len, rows)) + 1 + gap
    for name, value in rows.items():
        print(f"{indent}{name + ':':<{width}}{value}")


def _text(field: bytes) -> str:
    """Return a field of a file that may be hostile, without what moves a cursor."""
    return printable(field.rstrip(b"\0").decode(errors="replace").rstrip("\n"))


def _time(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} +0000 UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"


def _size(number: int) -> str:
    size, unit = float(number), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}"


def _link(each: sif.Object) -> str:
    link = str(each.link & ~sif.GROUP) if each.link else "NONE"
    return link + " (G)" * bool(each.link & sif.GROUP)


def _group(each: sif.Object) -> str:
    return str(each.group & ~sif.GROUP) if each.group & ~sif.GROUP else "NONE"


def _type(each: sif.Object) -> str:
    name = TYPES.get(each.kind, "Unknown data-type")
    if each.kind != sif.PARTITION:
        return name
    machine = sif.MACHINES.get(each.machine, ("unknown",))[0]
    system = _FILE_SYSTEMS.get(each.file_system, "Unknown fs-type")
    return f"{name} ({system}/{_PARTS.get(each.part, 'Unknown part-type')}/{machine})"
