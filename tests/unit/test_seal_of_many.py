"""The seal of trees of very many inodes, which lie in no directory: to make them costs seconds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.errors import ImageError
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.writer.seal import seal_tree
from singbuild.file_tree import DIRECTORY, DirEntry, Entry, Facts, FileTree, PlainInode

EPOCH = 1_700_000_000
FILE, SUBDIRECTORY = 0o10, 0o4  # types as in KINDS
ROOT, FIRST = 1, 2  # numbers of inodes


class ManyNames(FileTree):
    """A tree with some directories, each of as many empty files or directories.

    kind: FILE or SUBDIRECTORY, of all that is in the directories.
    """

    path = Path("many names")

    def __init__(self, directories: int, entries: int, kind: int) -> None:
        self._directories, self._entries, self._kind = directories, entries, kind

    def close(self) -> None:
        """Close nothing."""

    @property
    def facts(self) -> Facts:
        return Facts("many names", 0, 0)

    def root(self) -> Entry:
        return self._entry(b"", ROOT, SUBDIRECTORY)

    def names(self, directory: Entry, parent: int | None = None) -> tuple[DirEntry, ...]:
        place = directory.inode.number - FIRST
        if directory.inode.number == ROOT:
            return self._rows(self._directories, FIRST, SUBDIRECTORY)
        if place < self._directories:
            first = FIRST + self._directories + place * self._entries
            return self._rows(self._entries, first, self._kind)
        return ()

    def _rows(self, count: int, first: int, kind: int) -> tuple[DirEntry, ...]:
        return tuple((b"%05d" % n, first + n, kind) for n in range(count))

    def named(self, directory: Entry, name_row: DirEntry) -> Entry:
        name, number, kind = name_row
        return self._entry(b"/".join(filter(None, (directory.path, name))), number, kind)

    def _entry(self, path: bytes, number: int, kind: int) -> Entry:
        return Entry(path, PlainInode(number, kind << 12 | 0o755, 0, 0, 0, EPOCH))

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        assert entry.inode.kind != DIRECTORY
        return iter(())

    def target(self, entry: Entry) -> bytes:
        raise NotImplementedError  # there are no links

    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        return ()


@pytest.mark.skipif(not shutil.which("debugfs"), reason="needs e2fsprogs")
def test_more_inodes_than_one_group_holds(tmp_path: Path) -> None:
    """33,000 empty files need a second group for their inodes alone."""
    image = seal_tree(ManyNames(33, 1000, FILE), tmp_path / "image", epoch=EPOCH).path
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    words = ["debugfs", "-R", "show_super_stats -h", str(image)]
    assert "Inode count:              33" in subprocess.check_output(words, text=True)


def test_too_many_subdirectories_are_refused_by_name(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with pytest.raises(ImageError) as caught:
        seal_tree(ManyNames(1, 31_999, SUBDIRECTORY), image, epoch=EPOCH)
    assert not image.exists()
    assert "/00000" in caught.value.what
    assert "31999 subdirectories; ext3 holds 31998" in caught.value.why
    seal_tree(ManyNames(1, 31_998, SUBDIRECTORY), image, epoch=EPOCH)
