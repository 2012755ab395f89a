"""A tree becomes a file system: first what its inodes hold, then the tables that count it.

Two callers: ``seal`` has it written to a file, and ``singbuild verify`` has it compared with
one, since all bytes of an image follow from the tree that it holds.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from singbuild.ext3.geometry import BLOCK, FIRST_INODE, LOST_INODE, Geometry
from singbuild.ext3.node import MANIFEST_ENTRY, Node
from singbuild.ext3.writer.contents import Contents
from singbuild.ext3.writer.nodes import Nodes
from singbuild.ext3.writer.spool import Spool
from singbuild.ext3.writer.tables import Summary, write_tables
from singbuild.ext3.writer.target import Nowhere, Target
from singbuild.ext3.writer.tree_reader import TreeReader
from singbuild.ext3.writer.volume import Volume

_ANY = Geometry(1 << 17, 1 << 15, 1024)  # room for whatever there is


@dataclass(frozen=True)
class Content:
    """What lies in the target once the contents are written; the tables follow from it.

    digests: SHA-256 of the inodes, 32 bytes each, in the order of the inventory. digest: of the
    tree. content_blocks: allocated, those of the journal and indirect ones included. next_block:
    the one after the last of them.
    """

    digests: Spool
    digest: bytes
    hash_seed: bytes
    journal_map: bytes
    content_blocks: int
    next_block: int


def write_contents(
    nodes: Nodes,
    reader: TreeReader,
    target: Target,
    geometry: Geometry,
    *,
    epoch: int,
    on_bytes: Callable[[int], None] = lambda _size: None,
    on_start: Callable[[Node, int], None] = lambda _node, _block: None,
) -> Content:
    """Write everything but superblocks, descriptors and bitmaps.

    epoch: the date of the file system's own files. on_bytes: called with the number of bytes
    of file data read since the last call. on_start: called with an inode that is no short file,
    and the first block that may be its own, in ascending order.
    """
    # The directories' hash seed. Not from the digest, like the UUID: it has to be known before
    # the first directory is written.
    seed = nodes.paths_digest[:16]
    with Volume(target, geometry) as volume:
        contents = Contents(reader, volume, geometry, seed, on_bytes, on_start)
        contents.write(nodes, epoch)
        volume.finish()
        contents.put_manifest(manifest_blocks(volume.digests))
    # The first line is the description's version: another way to describe trees gives other
    # digests.
    digest = hashlib.sha256(b"singbuild tree 2\n")
    for piece in volume.digests.records(1 << 20):
        digest.update(piece)
    return Content(
        volume.digests, digest.digest(), seed, contents.journal_map, volume.content_blocks,
        volume.next_block,
    )  # fmt: skip


def manifest_blocks(digests: Spool) -> Iterator[bytes]:
    """Yield what /.singularity.d/manifest holds: 4096 bytes at a time, fewer at its end."""
    size = hashlib.sha256().digest_size
    for row in digests.records(BLOCK // MANIFEST_ENTRY * size):
        yield b"".join([row[at : at + MANIFEST_ENTRY] for at in range(0, len(row), size)])


def tree_digests(nodes: Nodes, reader: TreeReader) -> Content:
    """Return what a seal would record of a tree, its file system's shape apart; write nothing."""
    return write_contents(nodes, reader, Nowhere(), _ANY, epoch=0)


def write_filesystem(
    nodes: Nodes,
    content: Content,
    target: Target,
    geometry: Geometry,
    blocks: int,
    epoch: int,
) -> None:
    """Write the tables: the target becomes a file system of so many blocks, and executable."""
    summary = Summary(
        blocks=blocks,
        next=content.next_block,
        inodes=FIRST_INODE - 2 + len(nodes),
        directories=[LOST_INODE, *nodes.directory_numbers],
        epoch=epoch,
        digest=content.digest,
        uuid=identity(content.digest),
        hash_seed=content.hash_seed,
        journal_map=content.journal_map,
    )
    write_tables(target, geometry, summary)


def identity(digest: bytes) -> uuid.UUID:
    """Make a UUID of version 8, which RFC 9562 leaves to its maker."""
    value = bytearray(digest[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(value))
