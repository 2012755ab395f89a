"""What kind of image a target becomes."""

from __future__ import annotations

from pathlib import Path

from singbuild import command


def kind(target: Path, *, sandbox: bool = False) -> str:
    """Return the format's name: a directory, or what the target's name says, a SIF in most cases.

    Where no program of the host writes a squashfs, a SIF holds an ext3, which needs none.
    """
    from singbuild.formats import loading

    if sandbox:
        return "directory"
    form = loading.chosen(target)
    missing = [each for each in form.format.programs if not command.which(each.name)]
    return "sif-ext3" if form.name == "sif" and missing else form.name
