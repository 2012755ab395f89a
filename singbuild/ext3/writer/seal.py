"""The seal: a finished tree becomes one ext3 file, the same bytes every time.

The writer is our own. ``mke2fs -d`` (1.47) cannot be pinned far enough: it
copies the host's inode times, takes over lost+found, splits hard-linked
symbolic links, cuts dates after 2038 and takes 21 s for 20,000 files in one
directory. Writing blocks in order from one reading of the tree is quicker,
and needs no host program and no privilege beyond reading.

What the bytes depend on: names, types, modes, owners, modification times in
whole seconds (clamped to the epoch, but for those of a copied source), link
groups, extended attributes (user, trusted, security, ACLs), symbolic links'
targets, device numbers and file data; then ``epoch`` and ``free``. A block of
zeros is a hole, whether the host stored it or not.

Each inode has a digest, of its metadata as ``contents`` notes it and of its
data, blocks of zeros left out; the tree's digest is that of all of these. It
stands in the boot block, the inodes' own ones in a manifest inside the image,
so that ``verification`` can name what changed. The UUID is cut from the digest.
The hash seed, which has to be known before the first directory is written,
comes from the names alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from singbuild.errors import ImageError
from singbuild.ext3.geometry import (
    BLOCK,
    FIRST_INODE,
    GROUP_BLOCKS,
    INODE,
    MAX_BLOCKS,
    Geometry,
    geometry_of_size,
    indirect_blocks,
    smallest_geometry,
)
from singbuild.ext3.node import Owner
from singbuild.ext3.writer.filesystem import identity, write_contents, write_filesystem
from singbuild.ext3.writer.image_reader import ImageReader, tree_nodes
from singbuild.ext3.writer.inventory import check_all_fit, check_epoch, inventory
from singbuild.ext3.writer.nodes import Nodes
from singbuild.ext3.writer.target import TargetFile, created
from singbuild.ext3.writer.tree_reader import DirectoryReader, TreeReader
from singbuild.file_tree import FileTree

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shape:
    """What an image keeps while its content changes.

    size: bytes of the file system; 0 for as few as its content takes.
    header: what stands before the file system.
    """

    size: int = 0
    header: bytes = b""


@dataclass(frozen=True)
class Sealed:
    """A finished image.

    size: bytes. uuid: the file system's. digest: "sha256:…" of the tree's
    canonical description; equal for equal trees, whatever ``free``.
    """

    path: Path
    size: int
    uuid: str
    digest: str


def seal(
    tree: Path,
    target: Path,
    *,
    epoch: int,
    free: int = 0,
    shape: Shape = Shape(),
    owners: Mapping[bytes, Owner] = MappingProxyType({}),
    times: Mapping[bytes, int] = MappingProxyType({}),
    on_progress: Progress | None = None,
) -> Sealed:
    """Write the tree under ``tree`` as an image to ``target``, mode 0755.

    tree: a directory whose owners and modes are real, as seen from here.
    target: does not exist, or is an empty file; the caller renames it into
    place. epoch: seconds since 1970; later modification times become it.
    free: bytes to leave free, with an inode for each 16 KiB; by default the
    image is as small as it can be. shape: what it shall be, whatever is in it. owners:
    of entries to which the host could not give them, by path. times: modification times that
    may be later than the epoch, by path. on_progress: called with
    bytes of file data read so far, and in all. fsync(2) is left to the caller, too.

    Raises ImageError for what ext3 cannot hold or what cannot be read, naming
    the path, or what does not fit into the size, and HostError when the target's disk
    is full. Nothing is then left at ``target``.
    """
    check_epoch(epoch)
    check_outside(tree, target)
    nodes = inventory(tree, epoch, owners, times)
    free_blocks, size = -(-free // BLOCK), shape.size // BLOCK
    with closing(DirectoryReader(os.fsencode(tree.resolve()))) as reader:
        job = _Seal(nodes, reader, epoch, free_blocks, size, on_progress)
        return _write_image(job, target, shape.header)


def seal_tree(tree: FileTree, target: Path, *, epoch: int, header: bytes = b"") -> Sealed:
    """Write an open image of any kind as ``seal`` does a directory: equal trees, equal bytes.

    header: what stands before the file system. Raises DamagedImage, and what ``seal`` raises.
    """
    check_epoch(epoch)
    nodes = tree_nodes(tree)
    nodes.reserve_manifest()
    check_all_fit(nodes)
    return _write_image(_Seal(nodes, ImageReader(tree), epoch), target, header)


def _write_image(job: _Seal, target: Path, header: bytes = b"") -> Sealed:
    with created(target, header) as file:
        tree_size, digest = job.write(file)
        file.finish(0o755)
    size = len(header) + tree_size
    return Sealed(target, size, str(identity(digest)), f"sha256:{digest.hex()}")


def check_outside(tree: Path, target: Path) -> None:
    """Refuse to write the image into the tree that it is made of."""
    if target.resolve().is_relative_to(tree.resolve()):
        raise ImageError(
            f"the image {target} would lie inside the tree it is made of",
            remedy="Give it another place.",
        )


@dataclass(frozen=True)
class _Seal:
    """One seal: the tree, and what the caller asks for. free, size: blocks."""

    nodes: Nodes
    reader: TreeReader
    epoch: int
    free: int = 0
    size: int = 0
    on_progress: Progress | None = None

    def write(self, file: TargetFile) -> tuple[int, bytes]:
        """Fill the file; return its size in bytes and the tree's digest.

        How many blocks the data takes is known only once it has been read,
        since blocks of zeros take none. If the guess led to another geometry
        than the true number does, the tree is written again with that one; so
        the result never depends on the guess.
        """
        guess = self.nodes.guess
        file.check_room(guess * BLOCK + len(self.nodes) * INODE)
        geometry = self._geometry_for(guess)
        while True:
            file.truncate(0)
            content = write_contents(
                self.nodes,
                self.reader,
                file,
                geometry,
                epoch=self.epoch,
                on_bytes=self._progress(),
            )
            if self.size:
                self._check_fits(content.next_block)
                break
            journal = geometry.journal + indirect_blocks(geometry.journal)
            exact = self._geometry_for(content.content_blocks - journal)
            if exact == geometry:
                break
            geometry = exact
        blocks = self._total_blocks(geometry, content.next_block)
        write_filesystem(self.nodes, content, file, geometry, blocks, self.epoch)
        return blocks * BLOCK, content.digest

    def _total_blocks(self, geometry: Geometry, used: int) -> int:
        """Return the blocks of the file system. used: the block after the last one in use."""
        if self.size:
            return min(self.size, geometry.groups * GROUP_BLOCKS)
        blocks = geometry.block_after(used, self.free) if self.free else used
        # The last group may hold nothing but inodes.
        return max(blocks, geometry.content_start(geometry.groups - 1))

    def _geometry_for(self, content: int) -> Geometry:
        used = FIRST_INODE - 2 + len(self.nodes)
        if self.size > MAX_BLOCKS:
            raise ImageError(
                f"no image has {self.size * BLOCK >> 20} MiB",
                why="An ext3 file system ends at 16 TiB.",
                remedy="Say a smaller size; what is not used takes no room on the disk.",
            )
        if self.size:
            self._check_fits(content)
            return geometry_of_size(self.size, used)
        geometry = smallest_geometry(content, self.free, used)
        if geometry is None:
            raise ImageError(
                "the tree is too large for an image",
                why=f"it needs {content * BLOCK} bytes; an ext3 file system ends at 16 TiB",
                remedy="Leave large data outside the image and bind it at run time.",
            )
        return geometry

    def _check_fits(self, blocks: int) -> None:
        """Refuse content that takes more than the size asked for."""
        if blocks > self.size:
            raise ImageError(
                "the image is full",
                why=f"It has {self.size * BLOCK >> 20} MiB; its content needs "
                f"{blocks * BLOCK >> 20} MiB.",
                remedy="Make it larger first: singbuild expand --size SIZE IMAGE",
            )

    def _progress(self) -> Callable[[int], None]:
        report = self.on_progress
        if report is None:
            return lambda _: None
        total, done = self.nodes.data_bytes, 0

        def add(size: int) -> None:
            nonlocal done
            done += size
            report(min(done, total), total)  # the manifest has grown since the nodes were listed

        return add
