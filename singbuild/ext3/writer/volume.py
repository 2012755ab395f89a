"""Allocates the blocks of an image in ascending order; hashes file data and writes all blocks.

File data is queued in large batches. One thread hashes a batch and another writes it, while the
caller reads on: hashlib and writev(2) release the GIL, so reading, hashing and writing overlap.
This module does not know what the blocks mean.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Self

from singbuild.ext3.geometry import BLOCK, GROUP_BLOCKS, Geometry
from singbuild.ext3.writer.spool import Spool
from singbuild.ext3.writer.target import Target

Run = tuple[int, int]  # first block, number of blocks
Parts = list[bytes | memoryview]  # fill a run in order: data, then zeros to the block's end

_BATCH_BLOCKS = 256  # a batch of so many, 1 MiB, is flushed
MAX_PARTS = 1024  # IOV_MAX: writev(2) takes no more
ZEROS = memoryview(bytes(BLOCK))
_MAX_PENDING = 4  # batches that the threads have at a time, at most: bounds memory


class Volume:
    """Allocates the blocks of a file system, hashes file data, and writes what blocks hold.

    A context manager, whose exit ends both threads. next_block: the next one to allocate; all
    content blocks before it are allocated. content_blocks: number of allocated blocks. digests: of
    the inodes, 32 bytes each, in the order of ``end_inode`` and ``append_short``; complete after
    ``finish``.
    """

    def __init__(self, target: Target, geometry: Geometry) -> None:
        self.content_blocks = self.next_block = self._group_end = 0
        self.target, self._geometry = target, geometry
        self.digests = Spool()
        self._batch_digests: list[bytes] = []  # of the inodes that ended in this batch
        self._inode_has_data = False  # whether ``append`` had data of the current inode
        # Queue of the hashing thread: pieces of data and, after the last piece of an inode, the
        # index of its digest in the batch's with the facts that complete the digest.
        self._stream: list[bytes | tuple[int, bytes]] = []
        self._digest = hashlib.sha256()  # of the inode that the hashing thread has reached
        # Queue of the writing thread: (first block, parts of the run).
        self._batch: list[tuple[int, Parts]] = []
        self._run_parts: Parts = []  # of the last run; blocks that follow it are added
        self._run_end = 0  # the first block after that run
        self._blocks_in_batch = 0
        self._pending: deque[tuple[Future[None], Future[None]]] = deque()
        # Each executor has one thread, which takes the batches in their order.
        self._hash_thread = ThreadPoolExecutor(1, "hash")
        self._write_thread = ThreadPoolExecutor(1, "write")
        self._start_group(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hash_thread.shutdown(cancel_futures=True)
        self._write_thread.shutdown(cancel_futures=True)

    def allocate(self, count: int) -> list[Run]:
        """Allocate blocks as runs; a block reads as zeros until data is put there."""
        self.content_blocks += count
        runs = []
        while count:
            if self.next_block == self._group_end:
                self._start_group(self._group_end // GROUP_BLOCKS)
            length = min(count, self._group_end - self.next_block)
            runs.append((self.next_block, length))
            self.next_block += length
            count -= length
        return runs

    def allocate_one(self) -> int:
        """Allocate one block."""
        return self.allocate(1)[0][0]

    def put(self, block: int, data: bytes) -> None:
        """Queue whole blocks for writing, the first at ``block``; they are not hashed."""
        self._batch.append((block, [data]))
        self._count_and_flush(len(data) // BLOCK)

    def append_short(self, count: int, digest: bytes) -> int:
        """Allocate an inode's ``count`` blocks if they fit into the current group.

        The caller writes them. digest: of the inode's description and data. Returns the first
        block, or 0 if the blocks do not fit; then nothing is allocated.
        """
        start = self.next_block
        if start + count > self._group_end:
            return 0
        self.next_block += count
        self.content_blocks += count
        self._batch_digests.append(digest)
        return start

    def append(self, data: bytes) -> list[Run]:
        """Queue file data for hashing and for the next blocks; zeros fill the last one."""
        runs = self.allocate(-(-len(data) // BLOCK))
        offset = 0
        for start, count in runs:
            size = count * BLOCK
            piece = data if len(runs) == 1 else data[offset : offset + size]
            self._stream.append(piece)
            self._queue(start, piece, count)
            offset += size
        self._inode_has_data = True
        return runs

    def end_inode(self, facts: bytes) -> None:
        """Complete an inode's digest: it hashes the data since the last call, then ``facts``."""
        if self._inode_has_data:
            self._stream.append((len(self._batch_digests), facts))
            self._batch_digests.append(b"")  # the hashing thread fills it in
            self._inode_has_data = False
        else:
            self._batch_digests.append(hashlib.sha256(facts).digest())

    def _queue(self, start: int, data: bytes, count: int) -> None:
        """Queue blocks for writing; blocks that follow the last run extend that run."""
        if start != self._run_end:
            self._run_parts = []
            self._batch.append((start, self._run_parts))
        self._run_end = start + count
        self._run_parts += data, ZEROS[: count * BLOCK - len(data)]
        self._count_and_flush(count)

    def _count_and_flush(self, blocks: int) -> None:
        self._blocks_in_batch += blocks
        if self._blocks_in_batch >= _BATCH_BLOCKS:
            self._flush()

    def finish(self) -> None:
        """Wait until all data is hashed and written."""
        self._flush()
        while self._pending:
            self._wait()

    def _wait(self) -> None:
        for future in self._pending.popleft():
            future.result()

    def _start_group(self, group: int) -> None:
        self.next_block = self._geometry.content_start(group)
        self._group_end = (group + 1) * GROUP_BLOCKS

    def _flush(self) -> None:
        while len(self._pending) >= _MAX_PENDING:
            self._wait()
        hashing = self._hash_thread.submit(self._hash, self._stream, self._batch_digests)
        # Out of order: a block of addresses is put when it is full, after the data behind it.
        runs = sorted(self._batch, key=itemgetter(0))
        writing = self._write_thread.submit(write_runs, self.target, runs)
        self._pending.append((hashing, writing))
        self._batch, self._stream, self._batch_digests = [], [], []
        # No run starts at block 0, so the next one is not added to a run of the old batch.
        self._run_end = self._blocks_in_batch = 0

    def _hash(self, stream: list[bytes | tuple[int, bytes]], digests: list[bytes]) -> None:
        for each in stream:
            if isinstance(each, tuple):
                index, facts = each
                self._digest.update(facts)
                digests[index] = self._digest.digest()
                self._digest = hashlib.sha256()
            else:
                self._digest.update(each)
        self.digests.append(b"".join(digests))


def write_runs(target: Target, runs: Iterable[tuple[int, Parts]]) -> None:
    """Write runs in ascending order; adjacent ones share a writev(2).

    runs: first block and up to MAX_PARTS parts of each.
    """
    adjacent: Parts = []
    first = end = 0
    for start, parts in runs:
        if adjacent and (start != end or len(adjacent) + len(parts) > MAX_PARTS):
            target.write_parts(adjacent, first * BLOCK)
            adjacent = []
        if not adjacent:
            first = end = start
        adjacent += parts
        end += sum(map(len, parts)) // BLOCK
    if adjacent:
        target.write_parts(adjacent, first * BLOCK)
