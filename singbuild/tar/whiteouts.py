"""Whiteouts: names in a layer that remove something of the layers below it.

OCI image specification, layer.md, "Whiteouts": ``.wh.NAME`` hides NAME, ``.wh..wh..opq`` all
that a directory had; neither hides what its own layer brings, in whatever order they come.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from singbuild.tar.beneath import Directory, Tree
from singbuild.tar.member_path import parted, refused
from singbuild.tar.read import Member

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."


class Whiteouts:
    """Applies the whiteouts of layers, the lowest layer first.

    remove: removes an entry of a directory, and all that is known of it.
    """

    def __init__(self, remove: Callable[[Directory, bytes], None]) -> None:
        self._remove = remove
        self._current: set[bytes] | None = None  # paths of the current layer; None for the first
        self._cleared: set[bytes] = set()  # directories that the current layer made opaque

    def add(self, path: bytes) -> None:
        """Note that the current layer has an entry, and so all directories above it."""
        while self._current is not None and path not in self._current:
            self._current.add(path)
            path = parted(path)[0]

    def apply(self, tree: Tree, member: Member, above: bytes, name: bytes) -> None:
        """Remove what lower layers have under a name, or in a whole directory."""
        if name.startswith(AUFS) and name != OPAQUE:
            return  # notes of aufs to itself
        hidden = name.removeprefix(WHITEOUT)
        if name != OPAQUE and hidden in (b"", b".", b".."):
            raise refused(member, "it would remove something outside its directory")
        if self._current is None:
            return  # there is no layer below
        try:
            where = tree.directory(above, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        if name == OPAQUE:
            self._clear(tree, where.path, self._current)
        elif (path := where.inside(hidden)) not in self._current:
            self._remove(where, hidden)
        elif _is_directory(where, hidden):  # this layer's own, with what lower ones had in it
            self._clear(tree, path, self._current)

    def end_layer(self, tree: Tree) -> None:
        """Remove what aufs noted for itself; a layer may have hard links to these files."""
        root = tree.directory(b"")
        for name in _names(root):
            if name.startswith(AUFS):
                self._remove(root, name)
        self._current, self._cleared = set(), set()

    def _clear(self, tree: Tree, top: bytes, current: set[bytes]) -> None:
        """Empty a directory of all that this layer did not put there.

        Once for each directory: a layer of nothing but whiteouts would else take for ever.
        """
        waiting = [top]
        while waiting:
            path = waiting.pop()
            if path in self._cleared:
                continue
            self._cleared.add(path)
            where = tree.directory(path, make=False)
            for name in _names(where):
                path = where.inside(name)
                if path not in current:
                    self._remove(where, name)
                elif stat.S_ISDIR(where.kind(name)):
                    waiting.append(path)


def _is_directory(where: Directory, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(where.kind(name))
    except FileNotFoundError:  # this layer has replaced it again
        return False


def _names(where: Directory) -> list[bytes]:
    with os.scandir(where.fd) as entries:
        return [os.fsencode(entry.name) for entry in entries]
