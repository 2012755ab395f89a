"""What an inode's digest is made of besides its data: the tree's canonical description.

Fields of fixed width, and bytes after their number, so that no two trees have the same.
docs/image-format.md, "The digest and the manifest".
"""

import struct

from singbuild.ext3.node import Node

_NODE = struct.Struct("<cIIIIqQIQ")
_SHORT = struct.Struct("<cIIIIqQIQQ")  # with their length
_FACT = struct.Struct("<cQQ")


def node_fact(node: Node) -> bytes:
    """Describe the inode itself."""
    return _NODE.pack(
        b"i", node.number, node.mode, node.uid, node.gid, node.mtime, node.size, node.links,
        node.device,
    )  # fmt: skip


def short_facts(node: Node) -> bytes:
    """Return ``closed(node_fact(node))``: of an inode without holes and attributes."""
    return _SHORT.pack(
        b"i", node.number, node.mode, node.uid, node.gid, node.mtime, node.size, node.links,
        node.device, _NODE.size,
    )  # fmt: skip


def closed(facts: bytes) -> bytes:
    """Add the length of all facts, which makes clear where the data before them ends."""
    return facts + len(facts).to_bytes(8, "little")


def fact(kind: bytes, one: int, other: int) -> bytes:
    """Describe anything else: a byte that says what, and two numbers."""
    return _FACT.pack(kind, one, other)
