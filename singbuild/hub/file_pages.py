"""An image's files as pages of a tree: what would be too much for a page gets its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from singbuild.hub.contents import File

LARGEST = 1200
"""Entries of a page: some 200 bytes each."""


@dataclass
class Node:
    """A file of the tree. page: the name of the page that a directory has of its own, else ""."""

    name: str
    path: str
    kind: str = "d"
    mode: str = ""
    size: int = 0
    target: str = ""
    count: int = 0
    page: str = ""
    by_name: dict[str, Node] = field(default_factory=dict)

    @property
    def children(self) -> list[Node] | None:
        """What a directory holds, sorted; None for anything else."""
        return [self.by_name[name] for name in sorted(self.by_name)] if self.kind == "d" else None


def tree(files: Sequence[File]) -> Node:
    """Make a tree of a list of files, each directory with the bytes and entries below it."""
    root = Node("", "/")
    for each in files:
        parts = [part for part in each.path.split("/") if part]
        if not parts:
            continue
        place, above = root, [root]
        for depth, part in enumerate(parts[:-1], 1):
            path = "/" + "/".join(parts[:depth])
            place = place.by_name.setdefault(part, Node(part, path))
            above.append(place)
        target = each.content if each.kind == "l" else ""
        node = Node(parts[-1], each.path, each.kind, f"{each.mode:04o}", 0, target)
        if each.kind == "f":
            node.size = each.size
        place.by_name.setdefault(parts[-1], node)
        for directory in above:
            directory.size += node.size
            directory.count += 1
    return root


def pages(root: Node) -> Iterator[tuple[str, Node]]:
    """Yield the name and the top of each page. Sets ``page`` of directories with one of their own.

    A directory of very many files is on one page all the same.
    """
    waiting = [("index.html", root)]
    number = 0
    while waiting:
        name, top = waiting.pop(0)
        own = []
        for node in _heads(top):
            number += 1
            node.page = f"{number}.html"
            own.append((node.page, node))
        yield name, top
        waiting += own


def _heads(top: Node) -> list[Node]:
    """Choose the directories below ``top`` that get pages of their own, the largest first."""
    room = LARGEST - len(top.by_name)
    heads = []
    directories = [each for each in top.by_name.values() if each.kind == "d"]
    for each in sorted(directories, key=lambda each: each.count):
        if each.count > room:
            heads.append(each)
        else:
            room -= each.count
    return heads
