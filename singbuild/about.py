"""What an image says of itself, in the words of Singularity 3.x and Apptainer.

``attributes`` is what their ``inspect`` shows; ``of`` is all that a SIF keeps beside the tree.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from singbuild.contract import About
from singbuild.errors import SingbuildError
from singbuild.file_tree import REGULAR, FileTree
from singbuild.packages import spdx
from singbuild.packages.tree import ImageTree

HOME = b".singularity.d"
_SCRIPT = re.compile(rb"10-.+\.sh|9\d-environment\.sh")
_LARGEST = 16 << 20  # bytes of a part
_FILES = {
    "deffile": (b"Singularity",),
    "runscript": (b"runscript",),
    "startscript": (b"startscript",),
    "test": (b"test",),
    "helpfile": (b"runscript.help",),
}
"""Attributes of 3.x that are one file each, by their names in the JSON."""
ALL = ("labels", "environment", *_FILES)
# elf(5): e_machine; Go's names.
MACHINES = {3: "386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64"}
MACHINES |= {243: "riscv64", 258: "loong64"}


class Tree(Protocol):
    """The files of an image, whatever it is: paths are bytes, relative to its root."""

    def chunks(self, path: bytes) -> Iterator[bytes] | None:
        """Return a regular file's content in pieces; None when there is no such file."""

    def names(self, path: bytes) -> Any:
        """Return what a directory holds: name, and whether it is a directory."""


def of(image: FileTree) -> About:
    """Return what an open image says of itself. Raises SingbuildError for a part too large."""
    tree = ImageTree(image)
    fields = attributes(tree, ALL)
    if names := apps(tree):
        fields["apps"] = {name: attributes(tree, ALL, name) for name in names}
    time = image.newest()
    return About(
        definition=fields.get("deffile", "").encode(),
        labels=fields.get("labels", {}),
        attributes=fields,
        bill=lambda: spdx.bill(tree, time),
        created=time,
        machine=machine(image),
    )


def attributes(tree: Tree, names: Sequence[str], app: str = "") -> dict[str, Any]:
    """Return the attributes that the image has, in the order of ``names``, a choice of ALL.

    app: those of this application in it.
    """
    values: dict[str, Any] = {}
    home = b"scif/apps/" + os.fsencode(app) + b"/scif" if app else HOME
    for name in names:
        if name == "labels":
            value: Any = _labels(tree, home)
        elif name == "environment":
            value = _environment(tree, home)
        else:
            value = next(filter(None, (text(tree, home + b"/" + f) for f in _FILES[name])), "")
        if value:
            values[name] = value
    return values


def apps(tree: Tree) -> list[str]:
    """Return the names of its applications, sorted."""
    return sorted(name.decode(errors="replace") for name, _ in tree.names(b"scif/apps"))


def text(tree: Tree, path: bytes) -> str:
    """Return a file as text; "" when there is none. Raises SingbuildError for a huge one."""
    chunks, size = list[bytes](), 0
    for chunk in tree.chunks(path) or ():
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST:
            raise SingbuildError(f"/{path.decode(errors='replace')} is larger than 16 MiB")
    return b"".join(chunks).decode(errors="replace")


def machine(image: FileTree) -> str:
    """Return the kind of machine that the image's shell is for; this one if that is not told."""
    shell = image.find("bin/sh")
    header = b""
    if shell and shell.inode.kind == REGULAR:  # a device in a sandbox would be the host's
        header = next(image.stream(shell), b"")[:20]
    number = struct.unpack(">H" if header[5:6] == b"\2" else "<H", header[18:20].ljust(2, b"\0"))[0]
    host = os.uname().machine
    elf_machine = MACHINES.get(number) if header.startswith(b"\x7fELF") else None
    return elf_machine or {"x86_64": "amd64", "aarch64": "arm64"}.get(host, host)


def _labels(tree: Tree, home: bytes) -> dict[str, str]:
    try:
        value = json.loads(text(tree, home + b"/labels.json") or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _environment(tree: Tree, home: bytes) -> dict[str, str]:
    """Return the scripts of a recipe and of a container image; the others are of every image."""
    directory = home + b"/env"
    names = [name for name, _ in tree.names(directory) if _SCRIPT.fullmatch(name)]
    texts = {b"/" + directory + b"/" + n: text(tree, directory + b"/" + n) for n in sorted(names)}
    return {path.decode(errors="replace"): content for path, content in texts.items() if content}
