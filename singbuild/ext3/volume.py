"""The file of an image while it is filled: blocks given out in ascending order.

File data streams through ``append``; a second thread hashes and writes it
while the caller reads on. Nothing here knows what the blocks mean.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from singbuild.ext3.geometry import BLOCK, GROUP_BLOCKS, Geometry
from singbuild.ext3.target import TargetFile

Run = tuple[int, int]  # first block, number of blocks

_BUFFER = 256  # blocks; two parts each are within IOV_MAX, 1024
_ZEROS = memoryview(bytes(BLOCK))
_PENDING = 2  # buffers on their way to the disk: bounds memory


class Volume:
    """A context manager; leaving it waits for the second thread.

    next: the next block of content; all content before it is in use.
    content: blocks given out so far.
    digests: what ``end`` was called for, in order, once ``finish`` was called.
    """

    def __init__(self, target: TargetFile, geometry: Geometry) -> None:
        self.content = self.next = self._end = 0
        self._target, self._geometry = target, geometry
        self.digests: list[bytes] = []
        self._open = hashlib.sha256()  # of data whose inode has not ended
        self._ends: list[tuple[int, bytes]] = []  # how many parts lie before it, and facts
        self._parts: list[bytes | memoryview] = []  # data and the zeros after it, in turn
        self._buffered = 0
        self._stream_start = self._stream_end = 0
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, "seal")
        self._enter(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

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
        """Write whole blocks where they belong, at once."""
        self._target.write(data, block * BLOCK)

    def append_short(self, data: bytes, count: int) -> int:
        """As append for data of up to ``count`` blocks, if those continue the last ones.

        The first block; or 0, and nothing was done.
        """
        start = self.next
        if start != self._stream_end or start + count > self._end:
            return 0
        self._stream_end = self.next = start + count
        self.content += count
        self._hold(data, count)
        return start

    def append(self, data: bytes) -> list[Run]:
        """Hash file data and write it into the next blocks of content; zeros fill the last."""
        runs = self.take(-(-len(data) // BLOCK))
        done = 0
        for start, count in runs:
            if start != self._stream_end:
                self._flush()
                self._stream_start = start
            self._stream_end = start + count
            size = count * BLOCK
            self._hold(data if len(runs) == 1 else data[done : done + size], count)
            done += size
        return runs

    def end(self, facts: bytes) -> None:
        """Say that an inode ends, with all data appended since the last; facts: all else of it."""
        self._ends.append((len(self._parts), facts))

    def _hold(self, data: bytes, count: int) -> None:
        self._parts += data, _ZEROS[: count * BLOCK - len(data)]
        self._buffered += count
        if self._buffered >= _BUFFER:
            self._flush()

    def finish(self) -> None:
        """Wait until all data is hashed and written."""
        self._flush()
        while self._pending:
            self._pending.popleft().result()

    def _enter(self, group: int) -> None:
        self.next = self._geometry.content_start(group)
        self._end = (group + 1) * GROUP_BLOCKS

    def _flush(self) -> None:
        if not self._parts and not self._ends:
            return
        while len(self._pending) >= _PENDING:
            self._pending.popleft().result()
        work = self._parts, self._ends, self._stream_start
        self._pending.append(self._thread.submit(self._absorb, *work))
        self._parts, self._ends, self._buffered = [], [], 0
        self._stream_start = self._stream_end

    def _absorb(
        self, parts: list[bytes | memoryview], ends: list[tuple[int, bytes]], start: int
    ) -> None:
        hashed = 0
        for end, facts in ends:
            for data in parts[hashed : end - 2 : 2] if end > hashed else ():
                self._open.update(data)
            data = parts[end - 2] if end > hashed else b""
            # The length makes clear where the data ends.
            self._open.update(b"".join((data, facts, len(facts).to_bytes(8, "little"))))
            self.digests.append(self._open.digest())
            self._open, hashed = hashlib.sha256(), end
        for data in parts[hashed::2]:
            self._open.update(data)
        if parts:
            self._target.write_parts(parts, start * BLOCK)
