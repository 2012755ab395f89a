"""Writes a tree as a directory, which Singularity and Apptainer call a sandbox."""

from __future__ import annotations

from pathlib import Path

from singbuild import about, workspace
from singbuild.console.display import Console
from singbuild.file_tree import FileTree
from singbuild.formats.loading import Kind


def write(target: Path, tree: FileTree, kind: Kind, console: Console, *, replace: bool) -> None:
    """Write a tree into a directory that becomes the target all at once, and report its size.

    replace: whether a directory that is there may go. Raises ImageError, HostError.
    """
    with workspace.part_directory(target) as part:
        kind.write(tree, part.tree, about.of(tree), console)
        part.become(target, replace=replace)
    with kind.open(target) as sandbox:
        console.done(str(target), sandbox.facts.size)
