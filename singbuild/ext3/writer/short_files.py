"""Most files of a tree are short: a second process reads and hashes them, ahead of the writer.

Opening, reading and hashing one takes as long as all else that is done for it, and two
threads would hand the interpreter to and fro for longer than that. The process sends what
it read through a pipe, and holds no more than some mebibytes that the pipe does not take.
When the writer dies, by whatever signal, the pipe breaks and the process ends too.
"""

import fcntl
import gc
import hashlib
import os
import signal
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import BinaryIO, NoReturn

from singbuild.errors import HostError
from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.node import MANIFEST, Node
from singbuild.ext3.writer.blockmap import DIRECT
from singbuild.ext3.writer.description import short_facts
from singbuild.ext3.writer.filedata import Files

_SHORT = DIRECT * BLOCK  # bytes
_REGULAR = stat.S_IFREG >> 12
_AT_ONCE = 256  # inodes
_SHARE = 6  # the writer reads one in so many parts itself
_AHEAD = 32 << 20  # bytes read before the writer takes them, while it packs the directories
_PIPE = 1 << 20  # bytes, what an ordinary user may ask for: pipe(7), /proc/sys/fs/pipe-max-size
_DIGEST = hashlib.sha256().digest_size

Short = tuple[Node, bytes | memoryview, bytes]  # its data, its digest; both b"" if not short


@contextmanager
def read_ahead(root: bytes, nodes: Sequence[Node]) -> Iterator[Iterator[list[Short]]]:
    """Yield all of ``nodes`` in their order, some at a time; the process ends with the block.

    Short is a file of up to twelve blocks, none of them zeros, without attributes. Where
    something is wrong with one, it is not short. Raises HostError.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            process = _started(root, nodes, reading, writing)
        finally:
            os.close(writing)
        try:
            yield _in_order(root, nodes, pipe)
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _started(root: bytes, nodes: Sequence[Node], reading: int, writing: int) -> int:
    """Start the process, deaf to all signals: one would have it clean up after the writer."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = os.fork()
        if not process:
            os.close(reading)  # or the pipe would not break
            _serve(root, nodes, writing)
        return process
    except OSError as error:
        raise HostError(
            "no second process can be started to read the tree",
            why=error.strerror or "",
            remedy="End some of your programs, or raise the limit (ulimit -u).",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_order(root: bytes, nodes: Sequence[Node], pipe: BinaryIO) -> Iterator[list[Short]]:
    with closing(Files(root)) as files:
        for index, some in enumerate(_parts(nodes)):
            if index % _SHARE:
                yield _sent(some, pipe)
            else:
                yield [(node, *_short(files, node)) for node in some]


def _sent(nodes: Sequence[Node], pipe: BinaryIO) -> list[Short]:
    kinds = _received(pipe, len(nodes))
    digests = _received(pipe, sum(kinds) * _DIGEST)
    sizes = [node.size if kind else 0 for node, kind in zip(nodes, kinds, strict=True)]
    data = memoryview(_received(pipe, sum(sizes)))
    found: list[Short] = []
    start = place = 0
    for node, size in zip(nodes, sizes, strict=True):
        if size:
            digest = digests[place : place + _DIGEST]
            found.append((node, data[start : start + size], digest))
            start, place = start + size, place + _DIGEST
        else:
            found.append((node, b"", b""))
    return found


def _received(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise HostError(
            "the process that reads the files of the tree ended",
            why="another program ended it, or memory ran out",
            remedy="Build again.",
        )
    return data


def _parts(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    for start in range(0, len(nodes), _AT_ONCE):
        yield nodes[start : start + _AT_ONCE]


def _serve(root: bytes, nodes: Sequence[Node], pipe: int) -> NoReturn:
    """Be the process: one byte for each inode, the short ones' digests, then their data."""
    try:
        gc.disable()
        waiting: deque[memoryview] = deque()
        ahead = 0
        with suppress(OSError):  # a smaller pipe would run dry between two parts
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
            ahead = _AHEAD
        with closing(Files(root)) as files:
            for index, some in enumerate(_parts(nodes)):
                if index % _SHARE:
                    read = [_short(files, node) for node in some]
                    kinds = bytes([bool(digest) for _, digest in read])
                    digests, data = [digest for _, digest in read], [data for data, _ in read]
                    waiting.append(memoryview(b"".join([kinds, *digests, *data])))
                    _send(waiting, pipe, ahead)
            _send(waiting, pipe, 0)
    finally:
        os._exit(0)


def _send(waiting: deque[memoryview], pipe: int, most: int) -> None:
    """Send what the pipe takes, and wait until no more than ``most`` bytes are left."""
    left = sum(map(len, waiting))
    while waiting:
        os.set_blocking(pipe, left > most)
        try:
            sent = os.write(pipe, waiting[0])
        except BlockingIOError:
            return
        left -= sent
        waiting[0] = waiting[0][sent:]
        if not waiting[0]:
            waiting.popleft()


def _short(files: Files, node: Node) -> tuple[bytes, bytes]:
    """A short file's data, and its inode's digest; twice b"" for any other inode."""
    size = node.size
    if node.mode >> 12 != _REGULAR or not 0 < size <= _SHORT or node.path == MANIFEST:
        return b"", b""
    try:
        fd = files.opened(node)
        try:
            data, names = os.read(fd, size + 1), os.listxattr(fd)
        finally:
            os.close(fd)
    except OSError:
        return b"", b""
    if names or len(data) != size or 0 in data[::BLOCK]:
        return b"", b""
    return data, hashlib.sha256(data + short_facts(node)).digest()
