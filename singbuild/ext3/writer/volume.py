"""Allocates the blocks of an image in ascending order; hashes file data and writes all blocks.

File data streams through ``append``; one thread hashes it and another writes it, in large
batches, while the caller reads on: hashlib and writev(2) release the GIL, so reading, hashing and
writing overlap. Nothing here knows what the blocks mean.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Self

from singbuild.ext3.geometry import BLOCK, GROUP_BLOCKS, Geometry
from singbuild.ext3.writer.target import Target

Run = tuple[int, int]  # first block, number of blocks
Parts = list[bytes | memoryview]  # what fills a run, in order: data, then zeros up to a whole block

_BATCH_BLOCKS = 256  # blocks of a batch: 1 MiB
_MAX_PARTS = 1024  # IOV_MAX: writev(2) takes no more
_ZEROS = memoryview(bytes(BLOCK))
_PENDING = 4  # batches on their way to the disk: bounds memory


class Volume:
    """Allocates the blocks of a file system, hashes file data, and writes what blocks hold.

    A context manager, which ends both threads. next_block: the next one to allocate; every content
    block before it is allocated. content_blocks: how many are. digests: of the inodes, in the
    order of the calls of ``end_inode`` and ``append_short``; complete after ``finish``.
    """

    def __init__(self, target: Target, geometry: Geometry) -> None:
        self.content_blocks = self.next_block = self._group_end = 0
        self._target, self._geometry = target, geometry
        self.digests: list[bytes] = []
        self._streaming = False  # whether the current inode has data
        # Queue of the hashing thread: pieces of data and, at each inode's end, its index in
        # ``digests`` with the facts that complete the digest.
        self._stream: list[bytes | tuple[int, bytes]] = []
        self._digest = hashlib.sha256()  # of the inode that the hashing thread has reached
        # Queue of the writing thread: (first block, parts of the run).
        self._batch: list[tuple[int, Parts]] = []
        self._parts: Parts = []  # of the last run, which blocks that follow it extend
        self._parts_end = 0  # the first block after that run
        self._buffered = 0  # blocks
        self._pending: deque[tuple[Future[None], Future[None]]] = deque()
        # One thread each, so that batches are hashed and written in the order they are queued in.
        self._hashing = ThreadPoolExecutor(1, "hash")
        self._writing = ThreadPoolExecutor(1, "write")
        self._start_group(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hashing.shutdown(cancel_futures=True)
        self._writing.shutdown(cancel_futures=True)

    def allocate(self, count: int) -> list[Run]:
        """Allocate blocks, which read as zeros until something is put there."""
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

    def append_short(self, data: bytes | memoryview, count: int, digest: bytes) -> int | None:
        """Append an inode's data if its ``count`` blocks fit into the current group.

        digest: of the inode's description and data. Returns the first block; None, with nothing
        written, if they do not fit.
        """
        start = self.next_block
        if start + count > self._group_end:
            return None
        self.next_block += count
        self.content_blocks += count
        self.digests.append(digest)
        self._queue(start, data, count)
        return start

    def append(self, data: bytes) -> list[Run]:
        """Hash file data and write it into the next blocks of content; zeros fill the last."""
        runs = self.allocate(-(-len(data) // BLOCK))
        done = 0
        for start, count in runs:
            size = count * BLOCK
            piece = data if len(runs) == 1 else data[done : done + size]
            self._stream.append(piece)
            self._queue(start, piece, count)
            done += size
        self._streaming = True
        return runs

    def end_inode(self, facts: bytes) -> None:
        """Complete an inode's digest: of the data since the previous call, then of ``facts``."""
        if self._streaming:
            self._stream.append((len(self.digests), facts))
            self.digests.append(b"")  # the hashing thread fills it in
            self._streaming = False
        else:
            self.digests.append(hashlib.sha256(facts).digest())

    def _queue(self, start: int, data: bytes | memoryview, count: int) -> None:
        """Queue blocks for writing; blocks that follow the last run become parts of it."""
        if start != self._parts_end:
            self._parts = []
            self._batch.append((start, self._parts))
        self._parts_end = start + count
        self._parts += data, _ZEROS[: count * BLOCK - len(data)]
        self._count_and_flush(count)

    def _count_and_flush(self, blocks: int) -> None:
        self._buffered += blocks
        if self._buffered >= _BATCH_BLOCKS:
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
        while len(self._pending) >= _PENDING:
            self._wait()
        hashing = self._hashing.submit(self._hash, self._stream)
        writing = self._writing.submit(self._write, self._batch)
        self._pending.append((hashing, writing))
        self._batch, self._stream = [], []
        # Block 0 is never content, so the next run starts a new entry of the new batch.
        self._parts_end = self._buffered = 0

    def _hash(self, stream: list[bytes | tuple[int, bytes]]) -> None:
        for each in stream:
            if isinstance(each, tuple):
                index, facts = each
                self._digest.update(facts)
                self.digests[index] = self._digest.digest()
                self._digest = hashlib.sha256()
            else:
                self._digest.update(each)

    def _write(self, batch: list[tuple[int, Parts]]) -> None:
        """Write runs of blocks, those that are adjacent by one writev(2)."""
        joined: Parts = []
        first = end = 0
        for start, parts in sorted(batch, key=itemgetter(0)):
            if joined and (start != end or len(joined) + len(parts) > _MAX_PARTS):
                self._target.write_parts(joined, first * BLOCK)
                joined = []
            if not joined:
                first = end = start
            joined += parts
            end += sum(map(len, parts)) // BLOCK
        if joined:
            self._target.write_parts(joined, first * BLOCK)
