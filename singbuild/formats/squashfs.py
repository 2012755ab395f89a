"""squashfs: a third of the size, packed; also with the header of Singularity 2.4, ``.simg``.

Written by ``tar2sqfs`` of squashfs-tools-ng: from a stream, with the stream's owners, the same
bytes from any number of threads. ``sqfstar`` of squashfs-tools 4.5 refuses a tar archive's entry
of the root directory. Measured on the Debian of benchmarks/docker-import (913 MB), seconds of the
processor and room beside mksquashfs's default, level 15 with blocks of 128 KiB, which takes 104 s:
with blocks of 256 KiB level 6 takes 9.9 s and 6.1 % more room, level 7 11.5 s and 3.7 %, level 9
16.7 s and 2.8 %. Reading the interpreter and 60 modules costs squashfuse 20 to 30 ms, whatever the
blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from singbuild import command
from singbuild.contract import About, Format, Program, Reporter
from singbuild.file_tree import FileTree
from singbuild.formats.hookspecs import hookimpl
from singbuild.squashfs.image import HEADER_2X, HEADER_2X_SIZE, SquashfsImage
from singbuild.squashfs.superblock import MAGIC

PROGRAM = Program("tar2sqfs", "squashfs-tools-ng")
_LEVEL, _BLOCK = 7, 256 << 10  # of zstd; bytes
# tar2sqfs(1). no-skip: fail at what it cannot write, instead of leaving it out; force: write to the
# file that is there, which is empty.
_OPTIONS = (
    *("--compressor", "zstd", "--comp-extra", f"level={_LEVEL}", "--block-size", str(_BLOCK)),
    *("--no-skip", "--force", "--quiet"),
)
_LATEST = (1 << 32) - 1  # seconds since 1970, what the superblock holds


@hookimpl
def singbuild_format() -> Format:
    """Describe the format."""
    return Format(
        "one file, a squashfs (zstd), a third of the size",
        (".sqsh", ".sqfs", ".squashfs"),
        (PROGRAM,),
    )


@hookimpl
def singbuild_writer() -> str:
    """Name tar2sqfs with its version and options, which decide the bytes."""
    version = command.version(PROGRAM.name).partition("\n")[0]
    return f"{version}, zstd level {_LEVEL}, blocks of {_BLOCK >> 10} KiB"


@hookimpl
def singbuild_write(tree: FileTree, target: Path, about: About, report: Reporter) -> bool:
    """Pack a tar archive of the tree: its headers have the owners, so root is not needed."""
    with target.open("r+b") as file:
        write(tree, file, about.created, report)
    return True


def write(tree: FileTree, file: BinaryIO, created: int, report: Reporter) -> None:
    """Write a squashfs to an open, empty file. created: its date, seconds since 1970."""
    # Not loaded to read images.
    from singbuild.formats.lossy import without
    from singbuild.tar.write import archive

    lossy_tree = without(tree, report, "squashfs", sockets=True, packed=True)
    # By descriptor: whoever may write to the directory could put another file in its place.
    path = f"/proc/self/fd/{file.fileno()}"
    words = [PROGRAM.name, *_OPTIONS, path]
    environment = command.environment({"SOURCE_DATE_EPOCH": str(min(max(created, 0), _LATEST))})
    command.feed(
        words,
        archive(lossy_tree),
        env=environment,
        package=PROGRAM.package,
        pass_fds=[file.fileno()],
    )


@hookimpl
def singbuild_recognise(head: bytes) -> bool:
    """Recognise the superblock's magic number."""
    at = HEADER_2X_SIZE if head.startswith(HEADER_2X) else 0
    return head[at:].startswith(MAGIC)


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open it at its offset."""
    return SquashfsImage(path)
