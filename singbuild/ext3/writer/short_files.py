"""Most files of a tree are short: a second process reads and hashes them, ahead of the writer.

Opening, reading and hashing one takes as long as all else that is done for it, and two
threads would hand the interpreter to and fro for longer than that. The process sends what
it read through a pipe, and holds no more than some mebibytes that the pipe does not take.
When the writer dies, by whatever signal, the pipe breaks and the process ends too.
"""

import fcntl
import hashlib
import os
import signal
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import BinaryIO, NoReturn

from singbuild.errors import HostError
from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.node import MANIFEST, Node
from singbuild.ext3.writer.blockmap import DIRECT
from singbuild.ext3.writer.description import short_facts
from singbuild.ext3.writer.filedata import Files
from singbuild.ext3.writer.nodes import Nodes

_SHORT = DIRECT * BLOCK  # bytes
_REGULAR = stat.S_IFREG >> 12
_AT_ONCE = 256  # inodes
_OWN_SHARE = 6  # the writer reads every sixth part itself: so both end at about the same time
_AHEAD = 32 << 20  # bytes read before the writer takes them, while it packs the directories
_PIPE = 1 << 20  # bytes, what an ordinary user may ask for: pipe(7), /proc/sys/fs/pipe-max-size
_DIGEST = hashlib.sha256().digest_size

Short = tuple[Node, bytes | memoryview, bytes]  # its data, its digest; both b"" if not short


@contextmanager
def read_ahead(root: bytes, nodes: Nodes) -> Iterator[Iterator[list[Short]]]:
    """Yield all nodes but the root in their order, some at a time; the process ends with the block.

    A short file has up to twelve blocks, none of them zeros, and no attributes. One that cannot
    be read, or has changed, is yielded like any other node: the writer will say what is wrong.
    Raises HostError.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            process = _start(root, nodes, reading, writing)
        finally:
            os.close(writing)
        try:
            yield _in_order(root, nodes, pipe)
        finally:
            # All other signals are blocked there.
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _start(root: bytes, nodes: Nodes, reading: int, writing: int) -> int:
    """Fork with all signals blocked: the writer's handlers, inherited, would clean up after it."""
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


def _in_order(root: bytes, nodes: Nodes, pipe: BinaryIO) -> Iterator[list[Short]]:
    with closing(Files(root)) as files:
        for index, some in enumerate(_parts(nodes)):
            if index % _OWN_SHARE:
                yield _receive(some, pipe)
            else:
                yield [(node, *_read_short(files, node)) for node in some]


def _receive(nodes: list[Node], pipe: BinaryIO) -> list[Short]:
    kinds = _read_exactly(pipe, len(nodes))
    digests = _read_exactly(pipe, sum(kinds) * _DIGEST)
    sizes = [node.size if kind else 0 for node, kind in zip(nodes, kinds, strict=True)]
    data = memoryview(_read_exactly(pipe, sum(sizes)))
    files: list[Short] = []
    start = digest_start = 0
    for node, size in zip(nodes, sizes, strict=True):
        if size:
            digest = digests[digest_start : digest_start + _DIGEST]
            files.append((node, data[start : start + size], digest))
            start, digest_start = start + size, digest_start + _DIGEST
        else:
            files.append((node, b"", b""))
    return files


def _read_exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise HostError(
            "the process that reads the files of the tree ended",
            why="another program ended it, or memory ran out",
            remedy="Build again.",
        )
    return data


def _parts(nodes: Nodes) -> Iterator[list[Node]]:
    each = islice(nodes, 1, None)  # but the root
    while some := list(islice(each, _AT_ONCE)):
        yield some


def _serve(root: bytes, nodes: Nodes, pipe: int) -> NoReturn:
    """Send each part as a byte per inode, then the digests and the data of its short files.

    The byte is 1 for a short file. Ends the process.
    """
    try:
        waiting: deque[memoryview] = deque()
        ahead = 0
        with suppress(OSError):  # a smaller pipe would run dry between two parts
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
            ahead = _AHEAD
        with closing(Files(root)) as files:
            for index, some in enumerate(_parts(nodes)):
                if index % _OWN_SHARE:
                    read = [_read_short(files, node) for node in some]
                    kinds = bytes([bool(digest) for _, digest in read])
                    digests, data = [digest for _, digest in read], [data for data, _ in read]
                    waiting.append(memoryview(b"".join([kinds, *digests, *data])))
                    _send(waiting, pipe, ahead)
            _send(waiting, pipe, 0)
    finally:
        os._exit(0)  # not sys.exit: that would run the writer's finally blocks


def _send(waiting: deque[memoryview], pipe: int, most: int) -> None:
    """Send what the pipe takes, and wait until no more than ``most`` bytes are left."""
    size = sum(map(len, waiting))
    while waiting:
        os.set_blocking(pipe, size > most)
        try:
            sent = os.write(pipe, waiting[0])
        except BlockingIOError:
            return
        size -= sent
        waiting[0] = waiting[0][sent:]
        if not waiting[0]:
            waiting.popleft()


def _read_short(files: Files, node: Node) -> tuple[bytes, bytes]:
    """Return a short file's data, and its inode's digest; twice b"" for any other inode."""
    size = node.size
    if node.mode >> 12 != _REGULAR or not 0 < size <= _SHORT or node.path == MANIFEST:
        return b"", b""
    try:
        fd = files.opened(node)
        try:
            # One byte more shows that the file has grown.
            data, names = os.read(fd, size + 1), os.listxattr(fd)
        finally:
            os.close(fd)
    except OSError:
        return b"", b""
    # A block that begins with a zero byte may be all zeros, which the writer makes a hole.
    if names or len(data) != size or 0 in data[::BLOCK]:
        return b"", b""
    return data, hashlib.sha256(data + short_facts(node)).digest()
