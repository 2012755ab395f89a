"""Most files of a tree are short: a second process reads, hashes and writes them.

Opening, reading and hashing one takes as long as all else that is done for it, and two
threads would hand the interpreter to and fro for longer than that. The process reads ahead,
while the writer packs the directories; it sends digests through a pipe, is told through another
where the files' blocks are, and writes them there. It holds no more than some mebibytes
that have no place yet. When the writer dies, by whatever signal, the pipes break and the process
ends too.
"""

import fcntl
import hashlib
import os
import select
import signal
import stat
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import BinaryIO, NamedTuple, NoReturn

from singbuild.errors import HostError
from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.node import MANIFEST, Node
from singbuild.ext3.writer.blockmap import DIRECT
from singbuild.ext3.writer.description import short_facts
from singbuild.ext3.writer.filedata import Files
from singbuild.ext3.writer.nodes import Nodes
from singbuild.ext3.writer.target import Target
from singbuild.ext3.writer.volume import MAX_PARTS, ZEROS, Parts, write_runs

_SHORT = DIRECT * BLOCK  # bytes
_REGULAR = stat.S_IFREG >> 12
_AT_ONCE = MAX_PARTS // 2  # inodes: data and zeros of their files go into one writev(2)
_OWN_SHARE = 3  # the writer reads every third part itself: so both end at about the same time
_AHEAD = 32 << 20  # bytes read before the writer has a place for them, while it packs directories
_PIPE = 1 << 20  # bytes, what an ordinary user may ask for: pipe(7), /proc/sys/fs/pipe-max-size
_DIGEST = hashlib.sha256().digest_size
_FINE, _FAILED = b"\0", b"\1"  # the first byte of a message; behind the latter is an error


class Batch(NamedTuple):
    """Nodes that follow each other. digests: of the inodes; b"" for all but short files.

    place: to be called with the first block that each short file shall have, 0 if the caller
    writes it like any other file. Raises HostError.
    """

    nodes: Sequence[Node]
    digests: Sequence[bytes]
    place: Callable[[Sequence[int]], None]


def long_file(node: Node) -> Batch:
    """Return a batch of one node that is no short file."""
    return Batch((node,), (b"",), lambda _: None)


class _Process(NamedTuple):
    """The writer's ends of the pipes. digests: from the process; places: of its short files."""

    digests: BinaryIO
    places: BinaryIO


@contextmanager
def read_ahead(root: bytes, nodes: Nodes, target: Target) -> Iterator[Iterator[Batch]]:
    """Yield all nodes but the root in their order, some at a time; the process ends with the block.

    A short file has up to twelve blocks, none of them zeros, and no attributes. One that cannot
    be read, or has changed, is yielded like any other node: the writer will say what is wrong.
    target: gets what short files hold, and is all written when the last batch was placed and the
    iteration ended. Raises HostError.
    """
    digests, sending = os.pipe()
    receiving, places = os.pipe()
    with os.fdopen(digests, "rb") as reading, os.fdopen(places, "wb", 0) as writing:
        try:
            serve = partial(_serve, root, nodes, target, sending, receiving)
            process = _start(serve, (digests, places))
        finally:
            os.close(sending)
            os.close(receiving)
        try:
            yield _in_order(root, nodes, target, _Process(reading, writing))
        finally:
            # All other signals are blocked there.
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _start(serve: Callable[[], NoReturn], ends: Sequence[int]) -> int:
    """Fork with all signals blocked: the writer's handlers, inherited, would clean up after it.

    ends: the writer's, of the pipes.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = os.fork()
        if not process:
            for end in ends:
                os.close(end)  # or the pipes would not break
            serve()
        return process
    except OSError as error:
        raise HostError(
            "no second process can be started to read the tree",
            why=error.strerror or "",
            remedy="End some of your programs, or raise the limit (ulimit -u).",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_order(root: bytes, nodes: Nodes, target: Target, process: _Process) -> Iterator[Batch]:
    with closing(Files(root)) as files:
        for index, some in enumerate(_parts(nodes)):
            if index % _OWN_SHARE:
                yield _receive(some, process)
            else:
                data, digests = _read_short(files, some)
                yield Batch(some, digests, partial(_write, target, data))
    _check(process.digests)  # the process has written all


def _receive(nodes: list[Node], process: _Process) -> Batch:
    _check(process.digests)
    kinds = _read_exactly(process.digests, len(nodes))
    packed = _read_exactly(process.digests, sum(kinds) * _DIGEST)
    at = iter(range(0, len(packed), _DIGEST))
    digests = [packed[(start := next(at)) : start + _DIGEST] if kind else b"" for kind in kinds]
    return Batch(nodes, digests, partial(_send, process.places))


def _send(places: BinaryIO, starts: Sequence[int]) -> None:
    with suppress(BrokenPipeError):  # the next message says why
        places.write(array("I", starts))


def _check(pipe: BinaryIO) -> None:
    """Read a message's first byte. Raises HostError if the process could not write."""
    if _read_exactly(pipe, 1) == _FAILED:
        what, why, remedy = pipe.read().decode().split("\0")
        raise HostError(what, why=why, remedy=remedy)


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


def _serve(root: bytes, nodes: Nodes, target: Target, sending: int, receiving: int) -> NoReturn:
    """Send each part as a byte per inode, 1 for a short file, then these files' digests.

    Write the files as soon as it is known where. Ends the process.
    """
    try:
        with suppress(OSError):  # a smaller pipe would be full while directories are packed
            fcntl.fcntl(sending, fcntl.F_SETPIPE_SZ, _PIPE)
        with closing(Files(root)) as files, os.fdopen(sending, "wb") as pipe:
            try:
                _read_and_write(files, nodes, target, pipe, receiving)
                pipe.write(_FINE)
            except HostError as error:
                pipe.write(_FAILED + "\0".join((error.what, error.why, error.remedy)).encode())
    finally:
        os._exit(0)  # not sys.exit: that would run the writer's finally blocks


def _read_and_write(
    files: Files, nodes: Nodes, target: Target, pipe: BinaryIO, receiving: int
) -> None:
    waiting: deque[list[bytes]] = deque()  # data of the short files of a part
    size = 0  # bytes in there
    news = select.poll()
    news.register(receiving, select.POLLIN)

    def write(most: int) -> None:
        """Write the parts whose place is known; wait until no more than ``most`` bytes are left."""
        nonlocal size
        while waiting and (size > most or news.poll(0)):
            data = waiting.popleft()
            size -= sum(map(len, data))
            # At most 2 KiB, which one write(2) put there: a pipe does not divide them.
            starts = array("I", os.read(receiving, 4 * len(data)))
            _write(target, data, starts)

    for index, some in enumerate(_parts(nodes)):
        if index % _OWN_SHARE:
            data, digests = _read_short(files, some)
            pipe.write(b"".join([_FINE, bytes(map(bool, digests)), *digests]))
            pipe.flush()
            if data:
                waiting.append(data)
                size += sum(map(len, data))
            write(_AHEAD)
    write(-1)


def _write(target: Target, files: Sequence[bytes], starts: Sequence[int]) -> None:
    """Write short files. starts: the first block of each, or 0 if it is not to be written here."""
    runs: list[tuple[int, Parts]] = []
    end = 0
    for data, start in zip(files, starts, strict=True):
        if start:
            if start != end:
                runs.append((start, []))
            count = -(-len(data) // BLOCK)
            end = start + count
            runs[-1][1].extend((data, ZEROS[: count * BLOCK - len(data)]))
    write_runs(target, runs)


def _read_short(files: Files, nodes: Sequence[Node]) -> tuple[list[bytes], list[bytes]]:
    """Return what the short files among some nodes hold, and the digests of all, as in Batch."""
    contents, digests = [], []
    for node in nodes:
        data = b""
        if node.mode >> 12 == _REGULAR and 0 < node.size <= _SHORT and node.path != MANIFEST:
            data = _data(files, node)
        if data:
            contents.append(data)
            digests.append(hashlib.sha256(data + short_facts(node)).digest())
        else:
            digests.append(b"")
    return contents, digests


def _data(files: Files, node: Node) -> bytes:
    """Return a file's data, b"" if it is not what a short file has."""
    try:
        fd = files.opened(node)
        try:
            # One byte more shows that the file has grown.
            data, names = os.read(fd, node.size + 1), os.listxattr(fd)
        finally:
            os.close(fd)
    except OSError:
        return b""
    # A block that begins with a zero byte may be all zeros, which the writer makes a hole.
    return b"" if names or len(data) != node.size or 0 in data[::BLOCK] else data
