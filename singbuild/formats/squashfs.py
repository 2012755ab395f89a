"""squashfs: a third of the size, packed; also with the header of Singularity 2.4, ``.simg``."""

from __future__ import annotations

from pathlib import Path

from singbuild.contract import Format
from singbuild.file_tree import FileTree
from singbuild.formats.hookspecs import hookimpl
from singbuild.squashfs.image import HEADER_2X, HEADER_2X_SIZE, SquashfsImage
from singbuild.squashfs.superblock import MAGIC


@hookimpl
def singbuild_format() -> Format:
    """A file system in a file."""
    return Format("one file, a squashfs (zstd), a third of the size",
                  (".sqsh", ".sqfs", ".squashfs"))  # fmt: skip


@hookimpl
def singbuild_recognise(head: bytes) -> bool:
    """By the superblock's first word."""
    at = HEADER_2X_SIZE if head.startswith(HEADER_2X) else 0
    return head[at:].startswith(MAGIC)


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open it at its offset."""
    return SquashfsImage(path)
