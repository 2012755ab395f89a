"""The blocks of an image while they are filled, given out in ascending order.

File data streams through ``append``; one thread hashes it and another writes
it, in large batches, while the caller reads on: hashlib and writev(2) let go of
the interpreter, so three things go on at once. Nothing here knows what the
blocks mean.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Self

from singbuild.ext3.geometry import BLOCK, GROUP_BLOCKS, Geometry
from singbuild.ext3.writer.target import Target

Run = tuple[int, int]  # first block, number of blocks
Parts = list[bytes | memoryview]  # data and the zeros after it, in turn

_BUFFER = 256  # blocks of a batch: 1 MiB
_AT_ONCE = 1024  # parts: writev(2), IOV_MAX
_ZEROS = memoryview(bytes(BLOCK))
_PENDING = 4  # batches on their way to the disk: bounds memory


class Volume:
    """Gives out the blocks of a file system, and writes and hashes what is put into them.

    A context manager, which ends both threads. next: the next block of content; all content
    before it is in use. content: blocks given out so far. digests: of the inodes, in the order
    of the calls of ``end`` and ``append_short``; complete once ``finish`` was called.
    """

    def __init__(self, target: Target, geometry: Geometry) -> None:
        self.content = self.next = self._end = 0
        self._target, self._geometry = target, geometry
        self.digests: list[bytes] = []
        self._streaming = False  # whether the inode at hand has data
        # For the thread that hashes: data, and where an inode ends, its place in ``digests`` with
        # the facts that complete it.
        self._stream: list[bytes | tuple[int, bytes]] = []
        self._digest = hashlib.sha256()  # that thread's: of the inode at hand
        # For the thread that writes: runs of blocks, by their first.
        self._batch: list[tuple[int, Parts]] = []
        self._parts: Parts = []  # of the last run, which blocks that follow it are added to
        self._parts_end = 0  # the block behind it
        self._buffered = 0  # blocks
        self._pending: deque[tuple[Future[None], Future[None]]] = deque()
        self._hashing = ThreadPoolExecutor(1, "hash")
        self._writing = ThreadPoolExecutor(1, "write")
        self._enter(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hashing.shutdown(cancel_futures=True)
        self._writing.shutdown(cancel_futures=True)

    def take(self, count: int) -> list[Run]:
        """Give out blocks. They read as zeros until something is put there."""
        self.content += count
        runs = []
        while count:
            if self.next == self._end:
                self._enter(self._end // GROUP_BLOCKS)
            length = min(count, self._end - self.next)
            runs.append((self.next, length))
            self.next += length
            count -= length
        return runs

    def take_one(self) -> int:
        """Give out one block."""
        return self.take(1)[0][0]

    def put(self, block: int, data: bytes) -> None:
        """Write whole blocks where they belong."""
        self._batch.append((block, [data]))
        self._count(len(data) // BLOCK)

    def append_short(self, data: bytes | memoryview, count: int, digest: bytes) -> int | None:
        """Append an inode's data if its ``count`` blocks fit into one run.

        digest: of the inode's description and data. Returns the first block; None, with nothing
        written, where a group ends too soon.
        """
        start = self.next
        if start + count > self._end:
            return None
        self.next += count
        self.content += count
        self.digests.append(digest)
        self._queue(start, data, count)
        return start

    def append(self, data: bytes) -> list[Run]:
        """Hash file data and write it into the next blocks of content; zeros fill the last."""
        runs = self.take(-(-len(data) // BLOCK))
        done = 0
        for start, count in runs:
            size = count * BLOCK
            piece = data if len(runs) == 1 else data[done : done + size]
            self._stream.append(piece)
            self._queue(start, piece, count)
            done += size
        self._streaming = True
        return runs

    def end(self, facts: bytes) -> None:
        """Complete an inode's digest: of the data appended since the last one, and of ``facts``."""
        if self._streaming:
            self._stream.append((len(self.digests), facts))
            self.digests.append(b"")  # the thread fills it in
            self._streaming = False
        else:
            self.digests.append(hashlib.sha256(facts).digest())

    def _queue(self, start: int, data: bytes | memoryview, count: int) -> None:
        """Queue blocks to be written; those that follow the last become parts of its run."""
        if start != self._parts_end:
            self._parts = []
            self._batch.append((start, self._parts))
        self._parts_end = start + count
        self._parts += data, _ZEROS[: count * BLOCK - len(data)]
        self._count(count)

    def _count(self, blocks: int) -> None:
        self._buffered += blocks
        if self._buffered >= _BUFFER:
            self._flush()

    def finish(self) -> None:
        """Wait until all data is hashed and written."""
        self._flush()
        while self._pending:
            self._wait()

    def _wait(self) -> None:
        for future in self._pending.popleft():
            future.result()

    def _enter(self, group: int) -> None:
        self.next = self._geometry.content_start(group)
        self._end = (group + 1) * GROUP_BLOCKS

    def _flush(self) -> None:
        while len(self._pending) >= _PENDING:
            self._wait()
        hashed = self._hashing.submit(self._hash, self._stream)
        written = self._writing.submit(self._write, self._batch)
        self._pending.append((hashed, written))
        self._batch, self._stream = [], []
        self._parts_end = self._buffered = 0

    def _hash(self, stream: list[bytes | tuple[int, bytes]]) -> None:
        for each in stream:
            if isinstance(each, tuple):
                place, facts = each
                self._digest.update(facts)
                self.digests[place] = self._digest.digest()
                self._digest = hashlib.sha256()
            else:
                self._digest.update(each)

    def _write(self, batch: list[tuple[int, Parts]]) -> None:
        """Write runs of blocks; runs that follow each other take one writev(2)."""
        whole: Parts = []
        first = end = 0
        for start, parts in sorted(batch, key=itemgetter(0)):
            if whole and (start != end or len(whole) + len(parts) > _AT_ONCE):
                self._target.write_parts(whole, first * BLOCK)
                whole = []
            if not whole:
                first = end = start
            whole += parts
            end += sum(map(len, parts)) // BLOCK
        if whole:
            self._target.write_parts(whole, first * BLOCK)
