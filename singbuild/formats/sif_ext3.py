"""A SIF with an ext3 in it: larger, mounted by whatever mounts ext3; chosen by its name only."""

from __future__ import annotations

from pathlib import Path

from singbuild.contract import About, Format
from singbuild.file_tree import FileTree
from singbuild.formats import sif
from singbuild.formats.hookspecs import hookimpl


@hookimpl
def singbuild_format() -> Format:
    """Describe the format."""
    what = "a SIF with an ext3 in it: no host program writes it, and a kernel mounts it faster"
    return Format(what, executable=True)


@hookimpl
def singbuild_recognise() -> bool:
    """Recognise nothing: the format sif opens both."""
    return False


@hookimpl
def singbuild_open(path: Path) -> FileTree:
    """Open it as any SIF."""
    return sif.singbuild_open(path)


@hookimpl
def singbuild_write(tree: FileTree, target: Path, about: About) -> bool:
    """Write what the image says of itself, then its tree."""
    sif.write_with_ext3(tree, target, about)
    return True
