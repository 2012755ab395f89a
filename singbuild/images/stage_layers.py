"""An image as several layers: what each stage of its build changed.

Its next version, built on the same stages, shares their layers in a registry.

A layer has the names that differ from the tree below, with the directories above them; names of
one inode together, for a hard link into a layer below is a file of its own to overlayfs. What is
gone is a whiteout: OCI image specification, "layer.md".
"""

from __future__ import annotations

import contextlib
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator

from singbuild.cache import snapshot, store
from singbuild.cache.snapshot import Entry as Stage
from singbuild.errors import ImageError
from singbuild.file_tree import DIRECTORY, REGULAR, SYMLINK, Entry, FileTree
from singbuild.formats import loading
from singbuild.images.difference import same_data
from singbuild.tar import write
from singbuild.tar.whiteouts import WHITEOUT

_Groups = dict[int, frozenset[bytes]]  # the names of an inode that has several


def stages(digest: str, stack: contextlib.ExitStack) -> list[Stage]:
    """Open the stages of the build that made an image, which the cache still has, oldest first.

    digest: what the image records of its content; stack: closes them. Only those are of use whose
    image is a whole tree.
    """
    finished = (each for each in store.entries() if each.name == snapshot.IMAGE)
    last = next((each for each in finished if _digest(each) == digest), None) if digest else None
    chain: list[Stage] = []
    while last and last.parent:
        last = stack.enter_context(store.opened(last.parent))
        if last and not last.onto:
            chain.insert(0, last)
    return chain


def _digest(stage: Stage) -> str:
    try:
        return loading.recorded_digest(stage.path)
    except ImageError:
        return ""


def changes(below: FileTree, tree: FileTree, leave_out: Callable[[bytes], bool]) -> Iterator[bytes]:
    """Yield a layer, as a tar archive, that makes ``tree`` of ``below``.

    leave_out: says of a path whether no layer has it. Raises DamagedImage.
    """
    before = {entry.path: entry for entry in below.walk()}
    groups = _groups(tree)
    same = _Comparison(below, _groups(below), tree, groups)
    differing, now, directories = set[bytes](), set[bytes](), set[bytes]()
    for entry in tree.walk():
        now.add(entry.path)
        directories |= {entry.path} if entry.inode.kind == DIRECTORY else set()
        other = before.get(entry.path)
        if not (other and same.is_equal(other, entry)):
            differing |= groups.get(entry.inode.number, {entry.path})
    removed = [path for path in before if path not in now and _above(path) in directories]
    for path in [*differing, *removed]:
        while path and (path := _above(path)) not in differing:
            differing.add(path)
    for path in removed:
        directory, slash, name = path.rpartition(b"/")
        if not leave_out(path):
            yield write.packed(tarfile.TarInfo(_text(directory + slash + WHITEOUT + name)))
    yield from write.archive(tree, lambda path: path not in differing or leave_out(path))


class _Comparison:
    """Tells whether a name is the same in two trees."""

    def __init__(
        self, below: FileTree, groups_below: _Groups, tree: FileTree, groups: _Groups
    ) -> None:
        self._below, self._tree = below, tree
        self._groups_below, self._groups = groups_below, groups

    def is_equal(self, before: Entry, entry: Entry) -> bool:
        """Whether all that a layer holds of a name is equal."""
        old, new = before.inode, entry.inode
        if (old.mode, old.uid, old.gid, old.mtime) != (new.mode, new.uid, new.gid, new.mtime):
            return False
        if old.kind != DIRECTORY and (old.size, old.device) != (new.size, new.device):
            return False
        if self._groups_below.get(old.number) != self._groups.get(new.number):
            return False
        if self._below.attributes(before) != self._tree.attributes(entry):
            return False
        if old.kind == SYMLINK:
            return self._below.target(before) == self._tree.target(entry)
        if old.kind != REGULAR:
            return True
        return same_data(self._below.data(before), self._tree.data(entry))


def _groups(tree: FileTree) -> _Groups:
    names = defaultdict[int, set[bytes]](set)
    for entry in tree.walk():
        if entry.inode.links > 1 and entry.inode.kind != DIRECTORY:
            names[entry.inode.number].add(entry.path)
    return {number: frozenset(paths) for number, paths in names.items()}


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
