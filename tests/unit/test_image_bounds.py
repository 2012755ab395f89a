"""Counts and sizes of an image that no file holds are refused, whatever they say."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from uuid import UUID

import pytest

from singbuild.errors import ImageError
from singbuild.ext3 import records
from singbuild.ext3.attributes import Attribute
from singbuild.ext3.geometry import Geometry
from singbuild.ext3.node import Node
from singbuild.ext3.writer.filesystem import tree_digests
from singbuild.ext3.writer.nodes import Nodes, Status
from singbuild.ext3.writer.short_files import Batch, long_file
from singbuild.ext3.writer.target import Target


def test_a_backup_behind_8_tib_has_the_low_bits_of_its_groups_number() -> None:
    """So does e2fsprogs: s_block_group_nr has 16."""
    totals = records.Totals(1 << 31, 0, 0, 0, UUID(int=0).bytes, bytes(16), bytes(60))
    block = records.superblock(Geometry(1 << 17, 16, 1024), totals, 5**7)
    assert int.from_bytes(block[0x5A:0x5C], "little") == 5**7 - 0x10000


class _OneFile:
    """A tree of one file, of which a byte is stored. offset: where."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def short_files(self, nodes: Nodes, _target: Target) -> AbstractContextManager[Iterable[Batch]]:
        return nullcontext(map(long_file, islice(nodes, 1, None)))

    def file(self, _node: Node) -> tuple[list[Attribute], Iterable[tuple[int, bytes]]]:
        return [], [(self._offset, b"x")]

    def target(self, _node: Node) -> bytes:
        raise NotImplementedError

    def attributes(self, _node: Node) -> list[Attribute]:
        return []


@pytest.mark.parametrize(("links", "offset", "why"), [(1 << 16, 0, "links"), (1, 1 << 43, "large")])
def test_what_no_inode_of_ext3_holds_is_refused_by_name(links: int, offset: int, why: str) -> None:
    """A squashfs may hold it, and the digest of its tree is asked for."""
    nodes, times = Nodes(), (0, 0, 0)
    file = Status(b"file", 5, stat.S_IFREG, *times, offset + 1, 0, 0)
    nodes.fill(Status(b"", 1, stat.S_IFDIR, *times, 0, 0, 0), [[file]])
    for _ in range(links - 1):
        nodes._add_name(file, nodes._offsets.get(5))
    with pytest.raises(ImageError, match="/file") as caught:
        tree_digests(nodes, _OneFile(offset))
    assert why in caught.value.why
