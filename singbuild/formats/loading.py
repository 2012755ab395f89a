"""Finds formats: by the word of ``--format``, by a target's ending, by an image's first bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from singbuild import entry_points
from singbuild.contract import About, Format, Program, Reporter
from singbuild.entry_points import Installed
from singbuild.errors import BackendError, ImageError
from singbuild.file_tree import FileTree
from singbuild.file_tree import opened as opened_file
from singbuild.formats import hookspecs
from singbuild.plugin import Plugin, blame
from singbuild.plugin import load as load_plugin
from singrun.errors import nearest

GROUP = "singbuild.format"
DEFAULT = "ext3"
HEAD = 4096  # bytes of a file by which its kind is recognised
REQUIRED = ("singbuild_format", "singbuild_recognise", "singbuild_open")


@dataclass(frozen=True)
class Kind:
    """A loaded format. format: what its plugin says of it."""

    plugin: Plugin
    format: Format

    @property
    def name(self) -> str:
        """The word of ``--format``."""
        return self.plugin.installed.name

    @property
    def can_write(self) -> bool:
        """Whether it writes images, and not only reads them."""
        return self.plugin.has("singbuild_write")

    @property
    def mode(self) -> int:
        """The permissions of its files, before the umask."""
        return 0o777 if self.format.executable else 0o666

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether an image is of this kind."""
        return bool(self.plugin.call("singbuild_recognise", path=path, head=head))

    def open(self, path: Path) -> FileTree:
        """Open an image. Raises ImageError."""
        return cast("FileTree", self.plugin.call("singbuild_open", path=path))

    def write(self, tree: FileTree, target: Path, about: About, report: Reporter) -> None:
        """Write a tree to an empty file, or into an empty directory. ImageError, HostError."""
        if not self.can_write:
            raise ImageError(f"the format {self.name} is only read, not written")
        self.plugin.call("singbuild_write", tree=tree, target=target, about=about, report=report)

    def writer(self) -> str:
        """Name the host program that writes, with its version; "" when none does."""
        return str(self.plugin.call("singbuild_writer") or "")


def opened(path: Path) -> FileTree:
    """Open an image of any kind; the caller closes it. Raises ImageError."""
    return kind_of(path).open(path)


def kind_of(path: Path) -> Kind:
    """Return the format of an image. Raises ImageError for a file of no known format."""
    head = _head(path)
    broken = []
    for each in entry_points.installed(GROUP):
        try:
            kind = load(each)
        except BackendError as error:
            broken.append(error.what)
            continue
        if kind.recognises(path, head):
            return kind
    names = ", ".join(each.name for each in entry_points.installed(GROUP))
    raise ImageError(
        f"{path} is not an image",
        why="\n".join([f"Its first bytes are those of no kind that is known: {names}.", *broken]),
        remedy="Give a file that singbuild, Singularity or Apptainer made, or a directory.",
    )


def is_ext3(path: Path) -> bool:
    """Whether an image is an ext3 file system, without a container around it."""
    return find(DEFAULT).recognises(path, _head(path))


def find(word: str) -> Kind:
    """Return the format of this name. Raises BackendError: none, two, or a broken one."""
    remedy = "singbuild formats lists them."
    return load(entry_points.only("format", word, entry_points.installed(GROUP), remedy))


def chosen(target: Path, word: str = "") -> Kind:
    """Return the format that ``word`` names, or else the ending of the target's name."""
    if word:
        return find(word)
    for each in entry_points.installed(GROUP):
        try:
            kind = load(each)
        except BackendError:
            continue  # only a user who names it gets the error
        if kind.can_write and target.name.lower().endswith(kind.format.endings):
            return kind
    return find(DEFAULT)


def meant_ending(target: Path) -> str:
    """Return the ending that the one of a target is a typing error of, maybe; else ""."""
    suffix = target.suffix.lower()
    if suffix in ("", ".img", ".simg"):
        return ""
    kinds = [find(each.name) for each in entry_points.installed(GROUP)]
    endings = [ending for kind in kinds for ending in kind.format.endings]
    return "" if suffix in endings else nearest(suffix, endings)


@cache
def load(each: Installed) -> Kind:
    """Import a format and check it against the hook specifications. Raises BackendError."""
    plugin = load_plugin("format", each, hookspecs, REQUIRED)
    with blame("format", each, "cannot be loaded"):
        answer = plugin.hooks.singbuild_format()
        if not isinstance(answer, Format):
            raise TypeError(f"singbuild_format returned {answer!r}, not a Format")
        for program in answer.programs:
            if not isinstance(program, Program):
                raise TypeError(f"Format.programs holds {program!r}, not a Program")
    return Kind(plugin, answer)


def recorded_digest(path: Path) -> str:
    """Return the digest that an image records of its content, "" for none. Raises ImageError."""
    with opened(path) as tree:
        return tree.facts.digest or ""


def image_digest(path: Path) -> str:
    """Return the SHA-256 of an image: of a file's bytes, of a directory's tree as an archive."""
    total = hashlib.sha256()
    if path.is_dir():
        from singbuild.tar.write import archive

        with opened(path) as tree:
            for piece in archive(tree):
                total.update(piece)
    else:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return total.hexdigest()


def _head(path: Path) -> bytes:
    fd = opened_file(path)
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ImageError(
                f"{path} is not an image",
                why="it is neither a regular file nor a directory",
                remedy="Give a file that singbuild, Singularity or Apptainer made, or a directory.",
            )
        return os.pread(fd, HEAD, 0) if stat.S_ISREG(mode) else b""
    finally:
        os.close(fd)
