"""ext3: what a build gives by default. Our images, bare ones, and those of Singularity 2.x."""

from __future__ import annotations

from pathlib import Path

from singbuild.contract import About, Format
from singbuild.ext3.boot import LAUNCH_LINE
from singbuild.ext3.reader.disk import HEADER_2X, HEADER_2X_SIZE
from singbuild.ext3.reader.image import Image
from singbuild.ext3.reader.superblock import MAGIC, SUPERBLOCK
from singbuild.file_tree import FileTree
from singbuild.formats.hookspecs import hookimpl

_MAGIC_AT = SUPERBLOCK + 56


@hookimpl
def singbuild_format() -> Format:
    """Describe the format."""
    return Format("one file, an ext3 file system that can be mounted and executed",
                  (".img", ".ext3"), executable=True)  # fmt: skip


@hookimpl
def singbuild_recognise(head: bytes) -> bool:
    """Recognise the superblock, or our launch line: a damaged image is to be called damaged."""
    places = [_MAGIC_AT] + [_MAGIC_AT + HEADER_2X_SIZE] * head.startswith(HEADER_2X)
    has_magic = any(head[at : at + 2] == MAGIC for at in places)
    return (has_magic or head.startswith(LAUNCH_LINE)) and head[32:41] != b"SIF_MAGIC"


@hookimpl
def singbuild_write(tree: FileTree, target: Path, about: About) -> bool:
    """Seal the tree, in as few blocks as its content takes."""
    from singbuild.ext3.writer.seal import seal_tree  # not loaded to read images

    seal_tree(tree, target, epoch=about.created)
    return True


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open it at its offset."""
    return Image(path)
