"""Is an image still, bit for bit, what the build wrote? If not: the first path that is not.

Two questions. Does each inode's content have the digest that was recorded? The
manifest inside the image answers for each path, the boot block for all of them.
And do all other bytes, from the superblock to the last bitmap, follow from
that content? The seal's own writer answers, by writing the image again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from singbuild.contract import Reporter
from singbuild.errors import ImageError
from singbuild.ext3.boot import BOOT_BLOCK, as_sealed, recorded_digest
from singbuild.ext3.geometry import (
    BLOCK,
    FIRST_INODE,
    GROUP_BLOCKS,
    INODE,
    JOURNAL_INODE,
    LOST_INODE,
    RESIZE_INODE,
    ROOT_INODE,
    Geometry,
)
from singbuild.ext3.node import MANIFEST, MANIFEST_ENTRY, Node, shown
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer.filesystem import (
    Content,
    manifest_blocks,
    tree_digests,
    write_contents,
    write_filesystem,
)
from singbuild.ext3.writer.image_reader import ImageReader, tree_nodes
from singbuild.ext3.writer.nodes import Nodes
from singbuild.ext3.writer.short_files import Batch, long_file
from singbuild.ext3.writer.spool import Spool
from singbuild.ext3.writer.target import Target
from singbuild.file_tree import REGULAR, Entry, FileTree
from singbuild.formats.loading import is_ext3, opened
from singbuild.images import rewriting
from singbuild.images.expected_bytes import BlockOwners, Compared

_OWN = {
    ROOT_INODE: "/",
    RESIZE_INODE: "the inode of the blocks reserved for growth",
    JOURNAL_INODE: "the journal's inode",
    LOST_INODE: "/lost+found",
}
_JOURNALS = (1024, 4096)  # blocks; geometry.journal_blocks
_TOO_MANY = "it tells of more files than there are"


class Sound(NamedTuple):
    """What is as built. files: how many inodes; digest: of the content.

    bytes: what is known of all other bytes of the file, in words; "" where they are as built.
    """

    files: int
    digest: str
    bytes: str = ""

    def __str__(self) -> str:
        more = f"; {self.bytes}" if self.bytes else ""
        return f"{self.files} files and directories as recorded, content {self.digest}{more}"


class NoRecordError(ImageError):
    """An image that records no digest of its content."""


def verify(path: Path, report: Reporter | None = None) -> Sound:
    """Return what was found sound. Signatures in the boot block are left to others.

    report: where a writer of another format than ours warns; None: of such a file the bytes
    beyond the content are not looked at.

    Raises ImageError, naming the first path or place that is not as built, or
    saying that the image records nothing to hold it against.
    """
    if not is_ext3(path):
        return _verify_tree(path, report)
    with Image(path, short=True) as image:
        nodes = tree_nodes(image, renumber=False)
        verification = _Verification(image, nodes)
        # The tables of inodes are part of the file, whatever the superblock says.
        most = min(image.superblock.inodes, image.size // INODE)
        manifest = _manifest(image, most, verification.error)
        if recorded_digest(image.boot) is None and manifest is None:
            raise _without_record(path)
        digest = verification.run(manifest)
    return Sound(len(nodes), digest)


def _verify_tree(path: Path, report: Reporter | None) -> Sound:
    """Hold an image of another kind against the manifest in it, and against its writer's bytes."""
    with opened(path) as tree:
        nodes = tree_nodes(tree)
        manifest = _manifest(tree, len(nodes) + 1, tree.damaged)
        if manifest is None:
            raise _without_record(path)
        content = tree_digests(nodes, ImageReader(tree))
        for place, (node, digest) in enumerate(zip(nodes, _digests(content), strict=True)):
            if digest != _entry_of(manifest, place):
                reason = "its content or its metadata is not what was built"
                raise tree.damaged(shown(node.path), reason)
        if manifest.size != len(nodes) * MANIFEST_ENTRY:
            raise tree.damaged(shown(MANIFEST), _TOO_MANY)
        what = rewriting.compared(path, tree, report) if report else ""
    return Sound(len(nodes), f"sha256:{content.digest.hex()}", what)


def _without_record(path: Path) -> NoRecordError:
    return NoRecordError(
        f"{path} records no digest",
        why="It was not built by singbuild, or by a version that recorded none.",
        remedy="Build it again from its recipe: singbuild inspect --recipe",
    )


class _ReaderByNumber(ImageReader):
    """Reads the nodes of an image of ours, whose numbers are the image's: without a second walk."""

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self._image = image

    def short_files(self, nodes: Nodes, _target: Target) -> AbstractContextManager[Iterable[Batch]]:
        """Call no file short."""
        return nullcontext(map(long_file, islice(nodes, 1, None)))

    def entry(self, node: Node) -> Entry:
        """Read the inode once more."""
        return Entry(node.path, self._image.inode(node.number))


class _Verification:
    """One image and its inodes."""

    def __init__(self, image: Image, nodes: Nodes) -> None:
        self._image, self._nodes = image, nodes
        self._reader = _ReaderByNumber(image)
        self._owners = BlockOwners(nodes)

    def run(self, manifest: Spool | None) -> str:
        """Return the digest, "sha256:…", of an image that is as built. Raises ImageError."""
        geometry = self._geometry()
        if geometry is None:
            self._check_content(tree_digests(self._nodes, self._reader), manifest)
            where = "the superblock or the journal's inode"
            raise self.error(where, "the file system has another shape than was built")
        compared = Compared(self._image, as_sealed(self._image.boot))
        content = write_contents(
            self._nodes,
            self._reader,
            compared,
            geometry,
            epoch=self._image.superblock.created,
            on_start=self._owners.note,
        )
        self._check_content(content, manifest)
        self._check_rest(compared, geometry, content)
        return f"sha256:{content.digest.hex()}"

    def _geometry(self) -> Geometry | None:
        """Return the geometry, if it and the inodes' numbers are as a seal gives them."""
        block = self._image.superblock
        try:
            journal = self._image.inode(JOURNAL_INODE).size // BLOCK
        except ValueError:
            return None
        last = FIRST_INODE + len(self._nodes) - 2
        numbers = chain([ROOT_INODE], range(FIRST_INODE, last + 1))
        sealed = (
            (block.block, block.inode_size, block.group_blocks) == (BLOCK, INODE, GROUP_BLOCKS)
            and block.group_inodes % 16 == 0
            and journal in _JOURNALS
            and all(
                node.number == number for node, number in zip(self._nodes, numbers, strict=True)
            )
            and last <= block.inodes
        )
        return Geometry(block.groups, block.group_inodes, journal) if sealed else None

    def _check_content(self, content: Content, manifest: Spool | None) -> None:
        """Refuse content that is not the recorded one, by the first path that differs."""
        actual = f"sha256:{content.digest.hex()}"
        record = recorded_digest(self._image.boot)
        if actual == record:
            return
        if manifest is None:
            reason = f"it is {actual}, recorded was {record}; no manifest tells which path differs"
            raise self.error("its content", reason)
        for node, digest in zip(self._nodes, _digests(content), strict=True):
            if digest != _entry_of(manifest, max(node.number - FIRST_INODE + 1, 0)):
                reason = "its content or its metadata is not what was built"
                raise self.error(shown(node.path), reason)
        raise self.error("the boot block", "the digest there is not that of the content")

    def _check_rest(self, compared: Compared, geometry: Geometry, content: Content) -> None:
        """Refuse any byte that does not follow from the content."""
        block = self._image.superblock
        last = geometry.content_start(geometry.groups - 1)
        if block.blocks < max(content.next_block, last):
            raise self.error("the superblock", "it counts fewer blocks than are in use")
        if self._image.size < block.size:
            # Its tables would be as many as the superblock says, and that may state any number.
            reason = f"the file system has {block.size} bytes, the file only {self._image.size}"
            raise self.error("its end", reason)
        write_filesystem(self._nodes, content, compared, geometry, block.blocks, block.created)
        compared.compare_rest()
        if compared.differing:
            offset = min(compared.differing)
            reason = f"all content is as built, but byte {offset} of the file is not"
            raise self.error(self._place(geometry, content.next_block, offset), reason)

    def _place(self, geometry: Geometry, end: int, offset: int) -> str:
        """Say what lies at an offset of the file. end: the first block that is not in use."""
        if offset < BOOT_BLOCK:
            return "the boot block"
        if offset >= min(self._image.size, self._image.superblock.size):
            return "its end"
        block = offset // BLOCK
        group = block // GROUP_BLOCKS
        tables = geometry.tables_start(group)
        if block < tables:
            return f"the superblock or the group descriptors in group {group}"
        if block < tables + 2:
            return f"the {('block', 'inode')[block - tables]} bitmap of group {group}"
        if block < geometry.content_start(group):
            at = (offset - (tables + 2) * BLOCK) // INODE
            return self._inode_name(group * geometry.inodes_per_group + at + 1)
        return self._owners.owner(block) if block < end else "the free space"

    def _inode_name(self, number: int) -> str:
        index = number - FIRST_INODE + 1
        if number < FIRST_INODE:
            return _OWN.get(number, f"the reserved inode {number}")
        if index < len(self._nodes):
            return shown(next(islice(self._nodes, index, None)).path)
        return f"the free inode {number}"

    def error(self, where: str, reason: str) -> ImageError:
        """Make the error: damage, or a change by somebody who mounted the image for writing."""
        if self._image.untouched:
            return self._image.damaged(where, reason)
        when = max(self._image.superblock.mounted, self._image.superblock.wtime)
        # A damaged time may lie past the year 9999, where datetime ends.
        date = datetime.fromtimestamp(min(when, 2**34), UTC).date()
        return ImageError(
            f"the image {self._image.path} was changed since it was built, first at {where}",
            why=f"{reason}; the file system was last written to on {date}",
            remedy="singbuild diff tells all that changed against another copy.",
        )


def _manifest(image: FileTree, most: int, error: Callable[[str, str], ImageError]) -> Spool | None:
    """Return the recorded digests, 16 bytes of each; None when there is no readable manifest.

    most: of how many inodes it may tell. error: makes the error of a place and a reason, which is
    raised for a larger one: to write an image again takes as many blocks as its manifest's size
    says, and an inode may state any size.
    """
    entry = image.find(MANIFEST, follow=False)
    if entry is None or entry.inode.kind != REGULAR:
        return None
    if entry.inode.size > MANIFEST_ENTRY * most:
        raise error(shown(MANIFEST), _TOO_MANY)
    manifest = Spool()
    try:
        for piece in image.stream(entry):
            manifest.append(piece)
    except ImageError:
        return None  # the comparison reports what is in its place
    return manifest


def _digests(content: Content) -> Iterator[bytes]:
    """Yield of each inode's digest as much as a manifest has."""
    for block in manifest_blocks(content.digests):
        for at in range(0, len(block), MANIFEST_ENTRY):
            yield block[at : at + MANIFEST_ENTRY]


def _entry_of(manifest: Spool, place: int) -> bytes:
    """Return the digest that a manifest has of an inode; fewer bytes where it has none."""
    return manifest.read(place * MANIFEST_ENTRY, MANIFEST_ENTRY)
