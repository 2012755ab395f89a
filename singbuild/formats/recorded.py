"""A directory that is hashed while it is read: the digest is of what was read, even if it changes.

What a lock has of a directory and what is copied of it later are both read by this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from singbuild.ext3.attributes import Attribute
from singbuild.ext3.holes import zeros
from singbuild.file_tree import REGULAR, Entry
from singbuild.formats.directory import Sandbox


class Recorded(Sandbox):
    """A directory as an open image. Each entry of a walk is hashed once the next is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.total = hashlib.sha256()
        self._contents: dict[int, str] = {}  # SHA-256 by inode, since a hard link is read once
        self._headers: dict[bytes, list[bytes]] = {}  # what was read of an entry besides content

    @property
    def digest(self) -> str:
        """Return the digest of all that was read so far, as a lock has it."""
        return f"sha256:{self.total.hexdigest()}"

    def walk(self, top: Entry | None = None) -> Iterator[Entry]:
        """Yield every name at and below ``top``."""
        for entry in super().walk(top):
            self._headers.pop(entry.path, None)
            yield entry
            self.record(entry)

    def record(self, entry: Entry) -> None:
        """Hash an entry, unless nothing of it was read: something left it out."""
        header = self._headers.pop(entry.path, None)
        if header is not None:
            facts = (entry.path, entry.inode.mode, entry.inode.device, self.content(entry), header)
            self.total.update(repr(facts).encode())

    def record_name(self, entry: Entry) -> None:
        """Hash the name of a COPY's source, which may be a link that is followed."""
        self.total.update(repr(entry.path).encode())

    def record_stream(self, entry: Entry, rest: Iterator[bytes]) -> None:
        """Hash a file that is read without a walk. rest: what of its ``stream`` is still unread."""
        for _ in rest:
            pass
        self._headers.pop(entry.path, None)
        self.attributes(entry)
        self.record(entry)

    def content(self, entry: Entry) -> str:
        """Return the SHA-256 of a file's content as it was read last, "" for all other kinds."""
        is_file = entry.inode.kind == REGULAR
        return self._contents.get(entry.inode.number, "") if is_file else ""

    def data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield a file's data as (offset, bytes)."""
        total, at = hashlib.sha256(), 0
        for offset, piece in super().data(entry):
            for each in (*zeros(offset - at), piece):
                total.update(each)
            at = offset + len(piece)
            yield offset, piece
        for each in zeros(entry.inode.size - at):
            total.update(each)
        self._contents[entry.inode.number] = total.hexdigest()

    def target(self, entry: Entry) -> bytes:
        """Return a symbolic link's target."""
        target = super().target(entry)
        self._headers[entry.path] = [target]
        return target

    def attributes(self, entry: Entry) -> tuple[Attribute, ...]:
        """Return extended attributes, which are read once of each entry that is copied."""
        attributes = super().attributes(entry)
        header = self._headers.setdefault(entry.path, [])
        header += [text for attribute in attributes for text in attribute]
        return attributes
