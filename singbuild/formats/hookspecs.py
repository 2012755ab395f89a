"""The hooks of a format: a kind of image file, as the engine recognises, opens and writes it.

A format is a module (or object) named by an entry point of the group ``singbuild.format``; the
entry point's name is the word of ``--format``. All formats are imported when an image is opened,
so an import should be cheap. Hooks are marked with ``singbuild.hookimpl``, and may take fewer
arguments than are listed here. The contract (version 1) grows by addition.

Errors: raise one of ``singbuild.errors``. Anything else is reported as a bug of the plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from singbuild.contract import About, Format, Reporter
    from singbuild.file_tree import FileTree

hookspec = pluggy.HookspecMarker("singbuild")
hookimpl = pluggy.HookimplMarker("singbuild")  # the same as singbuild.hookimpl


@hookspec(firstresult=True)
def singbuild_format() -> Format:
    """Say what this kind of image is, as data.

    When: before anything is opened or written, and for ``singbuild formats``.
    Assume: nothing.
    Return: ``Format``. The engine checks the host's programs before it creates anything.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_recognise(path: Path, head: bytes) -> bool:
    """Tell whether an image is of this kind.

    When: an image is to be opened; every format is asked, the first that says yes opens it.
    Assume: ``head`` is the first 4,096 bytes of a regular file, b"" for a directory.
    Return: True or False, by ``head`` alone where that is possible.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_open(path: Path) -> FileTree:
    """Open an image for reading, without mounting it and without privilege.

    When: ``inspect``, ``diff``, ``verify``, ``export``, ``convert``, ``Bootstrap: localimage``.
    Assume: ``singbuild_recognise`` said True of it. All that is in it may be hostile.
    Return: a ``FileTree``; the caller closes it.
    Raise: ``ImageError`` (``DamagedImage`` from ``FileTree.damaged`` for what contradicts itself).
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_write(tree: FileTree, target: Path, about: About, report: Reporter) -> bool:
    """Write a tree as an image of this kind.

    When: a build is sealed, or an image is converted. Optional: without it the format is read only.
    Assume: ``target`` is an empty file, or an empty directory where ``Format.directory`` is set;
    the engine renames it into place and sets its mode. The path is that of an open descriptor
    (``/proc/self/fd/N``): write to it, and ask its ``resolve()`` for the directory it lies in.
    Return: True. Equal trees must give equal bytes, whoever writes them, wherever and whenever.
    Owners, modes, times, hard links, attributes and devices are the tree's; what the format cannot
    hold is told by ``report.warn``.
    Raise: ``ImageError``, ``HostError``; the target is thrown away.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_writer() -> str:
    """Name the host program that writes, with its version, if the bytes depend on one.

    When: a build is resolved; it is kept in the lock. Optional.
    Return: such as "tar2sqfs (squashfs-tools-ng) 1.2.0".
    Since: 1.
    """
    raise NotImplementedError
