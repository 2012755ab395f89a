"""Directories as blocks of names; large ones with a hash tree, as the kernel's dir_index has it."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.records import HASH_HALF_MD4, INDEXED
from singbuild.ext3.writer.nodes import Name

# Up to here the kernel scans a directory about as quickly as it hashes a name.
_LINEAR_BLOCKS = 4
_ROOT_LIMIT = (BLOCK - 32) // 8  # entries of struct dx_root: after the dots and dx_root_info
_NODE_LIMIT = (BLOCK - 8) // 8  # of struct dx_node: after its fake directory entry
_WORD = 0xFFFFFFFF
_HEAD = struct.Struct("<IHBB").pack  # inode, length of the entry, length of the name, kind
# The same with the name, by the length of the entry.
_ENTRIES = {size: struct.Struct(f"<IHBB{size - 8}s").pack for size in range(12, 268, 4)}


def directory(own: int, parent: int, names: Sequence[Name], seed: bytes) -> tuple[bytes, int]:
    """Make a directory's content, in whole blocks, and its inode's flags.

    own, parent: inode numbers for "." and "..". seed: 16 bytes, the
    superblock's s_hash_seed. A large directory gets a hash tree as the kernel
    (dir_index) builds it: "Hash Tree Directories" in its documentation.
    """
    dots = [(b".", own, 0o040000), (b"..", parent, 0o040000)]
    linear = list(_blocks([*dots, *names]))
    if len(linear) <= _LINEAR_BLOCKS:
        return b"".join(linear), 0
    # Sorted by hash, then name: the same leaves whatever the order of scandir(3).
    hashed = sorted((half_md4(name, seed), name, number, mode) for name, number, mode in names)
    leaves = list(_blocks(entry[1:] for entry in hashed))
    # A third level would need the feature large_dir, which is no ext3's.
    if len(leaves) > _ROOT_LIMIT * _NODE_LIMIT:
        return b"".join(linear), 0
    return _tree(dots, leaves, _first_hashes(hashed, leaves)), INDEXED


def lost_and_found(own: int, parent: int) -> bytes:
    """Four blocks, so that e2fsck finds room without allocating, as mke2fs makes it."""
    dots = [(b".", own, 0o040000), (b"..", parent, 0o040000)]
    return b"".join(_blocks(dots)) + 3 * _empty()


def half_md4(name: bytes, seed: bytes) -> int:
    """Hash a name, taken as unsigned bytes, with the kernel's half MD4; the lowest bit is 0."""
    state: tuple[int, ...] = struct.unpack("<4I", seed)
    for start in range(0, len(name), 32):
        state = _compress(state, _words(name[start:]))
    return state[1] & ~1  # in an index the lowest bit says that a hash goes on from the leaf before


def _blocks(names: Iterable[Name]) -> Iterator[bytes]:
    """Pack entries in the given order, none across the end of a block."""
    packed: list[bytes] = []
    used = 0
    for name, number, mode in names:
        length = (len(name) + 11) & ~3  # 8 bytes before the name; entries begin at multiples of 4
        if used + length > BLOCK:
            yield _block(packed, used)
            packed, used = [], 0
        packed.append(_ENTRIES[length](number, length, len(name), _KINDS[mode >> 12], name))
        used += length
    if packed:
        yield _block(packed, used)


def _block(packed: list[bytes], used: int) -> bytes:
    """Make a block whose last entry reaches to its end."""
    last = packed[-1]
    length = len(last) + BLOCK - used
    packed[-1] = last[:4] + struct.pack("<H", length) + last[6:]
    return b"".join(packed).ljust(BLOCK, b"\0")


def _empty() -> bytes:
    return _HEAD(0, BLOCK, 0, 0).ljust(BLOCK, b"\0")


def _first_hashes(hashed: list[tuple[int, bytes, int, int]], leaves: list[bytes]) -> list[int]:
    """Find the hash at which each leaf begins, odd where it continues the leaf before."""
    firsts, position = [], 0
    for leaf in leaves:
        value = hashed[position][0]
        continues = position > 0 and hashed[position - 1][0] == value
        firsts.append(value | continues)
        position += _count(leaf)
    return firsts


def _count(block: bytes) -> int:
    offset = count = 0
    while offset < BLOCK:
        offset += struct.unpack_from("<H", block, offset + 4)[0]
        count += 1
    return count


def _tree(dots: list[Name], leaves: list[bytes], firsts: list[int]) -> bytes:
    """Join the root, inner nodes if the root cannot name all leaves, and the leaves."""
    inner = 0 if len(leaves) <= _ROOT_LIMIT else -(-len(leaves) // _NODE_LIMIT)
    below = [(first, 1 + inner + index) for index, first in enumerate(firsts)]
    parts = [below[start : start + _NODE_LIMIT] for start in range(0, len(below), _NODE_LIMIT)]
    if not inner:
        return _root(dots, 0, below) + b"".join(leaves)
    top = [(part[0][0], 1 + index) for index, part in enumerate(parts)]
    nodes = [_empty()[:8] + _index(part, _NODE_LIMIT) for part in parts]
    return b"".join([_root(dots, 1, top), *nodes, *leaves])


def _root(dots: list[Name], levels: int, below: list[tuple[int, int]]) -> bytes:
    """Make the dots, the second so long that readers without hash trees see no more."""
    (own, number, mode), (parent, above, _) = dots
    hidden = _HEAD(number, 12, len(own), _KINDS[mode >> 12]) + own.ljust(4, b"\0")
    hidden += _HEAD(above, BLOCK - 12, len(parent), _KINDS[mode >> 12]) + parent.ljust(4, b"\0")
    info = struct.pack("<IBBBB", 0, HASH_HALF_MD4, 8, levels, 0)
    return hidden + info + _index(below, _ROOT_LIMIT)


def _index(below: list[tuple[int, int]], limit: int) -> bytes:
    """Limit and count in place of the first hash, which is never compared."""
    head = struct.pack("<HHI", limit, len(below), below[0][1])
    rest = b"".join(struct.pack("<II", *pair) for pair in below[1:])
    return (head + rest).ljust(limit * 8, b"\0")


def _words(text: bytes) -> list[int]:
    """Eight words of up to 32 bytes, big-endian, padded with the length."""
    # As the kernel's str2hashbuf_unsigned(): the length is that of all the rest of the name.
    pad = (len(text) | len(text) << 8) * 0x10001 & _WORD
    words = []
    for start in range(0, 32, 4):
        value = pad
        for byte in text[start : min(start + 4, 32)]:
            value = (value << 8 | byte) & _WORD
        words.append(value)
    return words


def _compress(state: tuple[int, ...], words: list[int]) -> tuple[int, ...]:
    """Three rounds of eight steps of MD4 (RFC 1320), with the kernel's order of words."""
    a, b, c, d = state
    for choose, constant, shifts, order in _ROUNDS:
        for step, index in enumerate(order):
            mixed = a + choose(b, c, d) + words[index] + constant & _WORD
            shift = shifts[step & 3]
            a, b, c, d = d, (mixed << shift | mixed >> 32 - shift) & _WORD, b, c
    return tuple(old + new & _WORD for old, new in zip(state, (a, b, c, d), strict=True))


_Round = tuple[Callable[[int, int, int], int], int, tuple[int, ...], tuple[int, ...]]
_ROUNDS: tuple[_Round, ...] = (
    (lambda x, y, z: z ^ (x & (y ^ z)), 0, (3, 7, 11, 19), (0, 1, 2, 3, 4, 5, 6, 7)),
    (lambda x, y, z: (x & y) + ((x ^ y) & z), 0x5A827999, (3, 5, 9, 13), (1, 3, 5, 7, 0, 2, 4, 6)),
    (lambda x, y, z: x ^ y ^ z, 0x6ED9EBA1, (3, 9, 11, 15), (3, 7, 2, 6, 1, 5, 0, 4)),
)
# The directory entry's type byte, by the four top bits of the mode.
_KINDS = {0o10: 1, 0o4: 2, 0o2: 3, 0o6: 4, 0o1: 5, 0o14: 6, 0o12: 7}
